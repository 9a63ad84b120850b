"""Steps of FairClipper against the rule worked out from scratch. Shapes: B rows, K groups."""

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from fairclip import FairClipper, GroupEncoder, NormCap
from fairclip.clipping import Chain, Mode, Norm, Value
from fairclip.exceptions import FairclipWarning
from fairclip.trace import StepRecord
from tests._no_waiting import NoWaiting
from tests.capping._oracle import SlowCap
from tests.gradients._oracle import combined, group_gradients, norm

COUNTS = [600, 250, 150]
K = len(COUNTS)
Batch = tuple[Tensor, Tensor, Tensor]  # inputs (B, 4), targets (B,), codes (B,)


def mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def conv_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.GroupNorm(1, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).to(dtype)


def make_batches(
    n_steps: int,
    *,
    seed: int = 0,
    n_groups: int = K,
    n_rows: int = 16,
    dtype: torch.dtype = torch.float64,
) -> list[Batch]:
    """Batches with unknown rows and, in most of them, an absent group."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n_steps):
        draws = torch.rand(n_rows, generator=random)
        codes = (n_groups * draws**2).long()  # the first group is the largest
        codes = torch.where(torch.rand(n_rows, generator=random) < 0.1, -1, codes)
        absent = int(torch.randint(-1, n_groups, (), generator=random))
        codes = torch.where(codes == absent, (absent + 1) % n_groups, codes)
        inputs = torch.randn(n_rows, 4, generator=random, dtype=torch.float64)
        inputs = inputs * (n_groups - codes[:, None])  # so that norms differ
        found.append((inputs.to(dtype), torch.randint(3, (n_rows,), generator=random), codes))
    return found


def row_losses(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def parts_of(model: nn.Module, batch: Batch, n_groups: int = K) -> list[list[Tensor]]:
    """Every group's and the unknown rows' gradient, in float64 on a copy of the model."""
    exact = copy.deepcopy(model).double()
    inputs, targets, codes = batch
    losses = row_losses(exact, (inputs.double(), targets, codes))
    return group_gradients(exact, losses, codes, n_groups)


def step(clipper: FairClipper, model: nn.Module, batch: Batch) -> StepRecord:
    with clipper.watch(batch[2]):
        row_losses(model, batch).mean().backward()
    return clipper.clip_grad_()


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Relative to the norm of what is expected."""
    assert len(found) == len(expected)
    difference = norm([a.double() - b for a, b in zip(found, expected, strict=True)])
    assert difference <= tolerance * max(norm(expected), 1e-30)


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    """Every parameter and buffer, bit for bit."""
    tensors, others = found.state_dict(), expected.state_dict()
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def per_step_factors(
    norms: list[float], n_batch: list[int], counts: list[int], ratio: float
) -> Any:
    """Return the literal rule's factors and its reference norm."""
    present = [k for k, n in enumerate(n_batch) if n > 0]
    if not present:
        return [1.0] * len(norms), 0.0
    reference = min(present, key=lambda k: (counts[k], k))
    limit = ratio * norms[reference]
    factors = [
        min(1.0, limit / norms[k]) if k in present and k != reference and norms[k] * limit else 1.0
        for k in range(len(norms))
    ]
    return factors, norms[reference]


def counts_in(codes: Tensor, n_groups: int = K) -> list[int]:
    return [int((codes == k).sum()) for k in range(n_groups)]


# ------------------------------------------------------------------ no bound, no change


@pytest.mark.parametrize("build", [mlp, conv_net], ids=["mlp", "conv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_a_bound_training_is_the_same_bit_for_bit(build: Any, dtype: torch.dtype) -> None:
    model, plain = build(dtype=dtype), build(dtype=dtype)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.05) for m in (model, plain)]
    clipper = FairClipper(model, NormCap(max_ratio=float("inf")), group_counts=COUNTS)
    for number, batch in enumerate(make_batches(6, dtype=dtype)):

        def loss(m: nn.Module, batch: Batch = batch) -> Tensor:
            return row_losses(m, batch).mean() + sum(p.square().sum() for p in m.parameters())

        with ExitStack() as stack:
            if number == 0:
                stack.enter_context(pytest.warns(FairclipWarning, match="no row"))
            with clipper.watch(batch[2]):
                loss(model).backward()
        record = clipper.clip_grad_()
        loss(plain).backward()
        for found, expected in zip(grads(model), grads(plain), strict=True):
            assert torch.equal(found, expected)
        assert record.factors.tolist() == [1.0] * K
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model, plain)


def test_dropout_batch_norm_and_random_numbers_go_on_as_without_a_clipper() -> None:
    def run(*, clipped: bool) -> tuple[nn.Module, list[Tensor], Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.PReLU(8)
        )
        model.append(nn.Linear(8, 3))
        model[5].eval()  # a flag of the user's
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        cap = NormCap(max_ratio=float("inf"))
        clipper = FairClipper(model, cap, group_counts=COUNTS) if clipped else None
        outputs = []
        for number, batch in enumerate(make_batches(4, dtype=torch.float32)):
            with ExitStack() as stack:
                if clipper is not None:
                    if number == 0:
                        stack.enter_context(pytest.warns(FairclipWarning, match="batch stat"))
                    stack.enter_context(clipper.watch(batch[2]))
                outputs.append(model(batch[0]))
                functional.cross_entropy(outputs[-1], batch[1]).backward()
            if clipper is not None:
                clipper.clip_grad_()
            optimizer.step()
            optimizer.zero_grad()
        assert [m.training for m in model.modules()] == [True] * 6 + [False]
        return model, outputs, torch.get_rng_state()

    (model, outputs, state), (plain, expected, plain_state) = run(clipped=True), run(clipped=False)
    assert_same(model, plain)
    assert torch.equal(state, plain_state)
    for found, output in zip(outputs, expected, strict=True):
        assert torch.equal(found, output)


def test_one_group_alone_and_unknown_rows_alone_are_left_bit_for_bit() -> None:
    for counts, codes in (([50], [0] * 16), (COUNTS, [1] * 16), (COUNTS, [-1] * 16)):
        model, plain = mlp(), mlp()
        inputs, targets, _ = make_batches(1)[0]
        batch = (inputs, targets, torch.tensor(codes))
        step(FairClipper(model, NormCap.per_step(0.01), group_counts=counts), model, batch)
        row_losses(plain, batch).mean().backward()
        for found, expected in zip(grads(model), grads(plain), strict=True):
            assert torch.equal(found, expected)


# ------------------------------------------------------------------ the rule from scratch


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    n_groups=st.integers(1, 5),
    max_ratio=st.sampled_from([0.1, 0.5, 1.0, 1.3, 2.0]),
    known=st.booleans(),
)
def test_the_literal_rule_holds_on_gradients_from_scratch(
    seed: int, n_groups: int, max_ratio: float, known: bool
) -> None:
    counts = [40 + 10 * (k * 7 % 5) for k in range(n_groups)]
    model = mlp(seed)
    cap = NormCap.per_step(max_ratio)
    groups: dict[str, Any] = {"group_counts": counts} if known else {"n_groups": n_groups}
    clipper = FairClipper(model, cap, **groups)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    seen = [0] * n_groups
    for batch in make_batches(4, seed=seed, n_groups=n_groups):
        parts = parts_of(model, batch, n_groups)
        n_batch = counts_in(batch[2], n_groups)
        seen = [a + b for a, b in zip(seen, n_batch, strict=True)]
        norms = [norm(part) for part in parts[:-1]]
        record = step(clipper, model, batch)
        if known or min(seen) >= 30:  # else all groups are below `min_reference_rows`
            factors, reference = per_step_factors(
                norms, n_batch, counts if known else seen, max_ratio
            )
            assert record.factors.tolist() == pytest.approx(factors, rel=1e-9)
            for k in range(n_groups):
                if n_batch[k] and reference:
                    capped = float(record.factors[k]) * norms[k]
                    assert capped <= max(max_ratio, 1.0) * reference * (1 + 1e-6)
                    assert capped <= max_ratio * reference * (1 + 1e-6) or factors[k] == 1.0
        expected = combined(parts, record.factors.tolist())
        scale = max(norm(expected), *norms)
        assert norm([a - b for a, b in zip(grads(model), expected, strict=True)]) <= 1e-10 * scale
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "cap",
    [
        NormCap(),
        NormCap(max_ratio=0.5),
        NormCap(max_ratio=0.5, reference="smallest_norm"),
        NormCap(max_ratio=0.8, reference=1, floor=0.1),
        NormCap(max_ratio=0.8, scope="layer"),
        NormCap(max_ratio=0.8, scope="layer", smoothing=0.0, floor=0.0),
    ],
    ids=repr,
)
def test_twenty_steps_agree_with_the_slow_rule(cap: NormCap) -> None:
    model = mlp()
    clipper, slow = FairClipper(model, cap, group_counts=COUNTS), SlowCap(cap, COUNTS, [0] * K, K)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    acted = 0
    for batch in make_batches(20):
        parts = parts_of(model, batch)
        layers = [slice(0, 2), slice(2, 4)] if cap.scope == "layer" else [slice(0, 4)]
        norms = [[norm(part[layer]) for part in parts[:-1]] for layer in layers]
        factors = slow(norms, counts_in(batch[2]))
        record = step(clipper, model, batch)
        found = record.factors.reshape(len(layers), K)
        for k, n in enumerate(counts_in(batch[2])):
            if n:
                assert found[:, k].tolist() == pytest.approx([row[k] for row in factors], rel=1e-7)
                acted += any(row[k] < 1 for row in factors)
        if cap.scope == "layer":
            assert record.layers == ("0", "2")
        expected = [
            tensor
            for layer, row in zip(layers, factors, strict=True)
            for tensor in combined([part[layer] for part in parts], row)
        ]
        assert_close(grads(model), expected, 1e-7)
        optimizer.step()
        optimizer.zero_grad()
    assert acted > 10  # else nothing was tested
    assert len(clipper.trace.to_frame()) == 20


def test_in_float32_the_rule_holds_to_its_precision() -> None:
    model = mlp(dtype=torch.float32)
    clipper = FairClipper(model, NormCap.per_step(0.5), group_counts=COUNTS)
    for batch in make_batches(5, dtype=torch.float32):
        parts = parts_of(model, batch)
        norms = [norm(part) for part in parts[:-1]]
        factors, _ = per_step_factors(norms, counts_in(batch[2]), COUNTS, 0.5)
        step(clipper, model, batch)
        assert_close(grads(model), combined(parts, factors), 1e-5)
        model.zero_grad()


def test_preserve_norm_keeps_the_norm_and_the_direction() -> None:
    model, bare = mlp(), mlp()
    clippers = [
        FairClipper(m, NormCap(0.3, smoothing=0.0, preserve_norm=keep), group_counts=COUNTS)
        for m, keep in ((model, True), (bare, False))
    ]
    acted = False
    for batch in make_batches(4):
        whole = norm(combined(parts_of(model, batch), [1.0] * K))
        record, other = step(clippers[0], model, batch), step(clippers[1], bare, batch)
        assert norm(grads(model)) == pytest.approx(whole, rel=1e-10)
        acted |= float(other.norm_capped) < 0.9 * whole
        scale = whole / norm(grads(bare))
        assert_close(grads(model), [g * scale for g in grads(bare)], 1e-10)
        assert float(record.norm_capped) == pytest.approx(whole, rel=1e-10)
        model.zero_grad()
        bare.zero_grad()
    assert acted


@pytest.fixture
def cells() -> GroupEncoder:
    sizes = {("f", 0): 100, ("f", 1): 60, ("m", 0): 200, ("m", 1): 400}
    rows = [key for key, n in sizes.items() for _ in range(n)]
    sex = pd.DataFrame({"sex": [sex for sex, _ in rows]})
    return GroupEncoder(with_label=True).fit(sex, [label for _, label in rows])


@pytest.mark.parametrize(("reference", "code"), [("minority", "minority"), ("sex=m", (2, 3))])
def test_within_the_label_agrees_with_the_slow_rule(
    cells: GroupEncoder, reference: str, code: Any
) -> None:
    model = mlp()
    cap = NormCap(max_ratio=0.4, within="label", reference=reference, floor=0.1)
    clipper = FairClipper(model, cap, encoder=cells)
    slow_cap = replace(cap, reference=code)
    slow = SlowCap(slow_cap, cells.counts_.tolist(), cells.strata_.tolist(), 4)
    above = 0.0
    for batch in make_batches(8, n_groups=4):
        parts = parts_of(model, batch, 4)
        factors = slow([[norm(part) for part in parts[:-1]]], counts_in(batch[2], 4))[0]
        record = step(clipper, model, batch)
        above = max(above, *factors)
        assert_close(grads(model), combined(parts, factors), 1e-7)
        assert list(clipper.trace.names) == cells.names_
        assert record.factors.shape == (4,)
        model.zero_grad()
    assert above > 1.0  # the label keeps its share


def test_a_reference_is_found_by_its_name(cells: GroupEncoder) -> None:
    model = mlp()
    by_name = FairClipper(model, NormCap(reference="sex=m, y=0", smoothing=0.0), encoder=cells)
    assert by_name.cap.reference in (2, (2,))
    sexes = GroupEncoder().fit(["f"] * 50 + ["m"] * 90)
    named = FairClipper(mlp(), NormCap(reference=sexes.names_[1]), encoder=sexes)
    assert named.cap.reference in (1, (1,))
    across = FairClipper(mlp(), NormCap(reference="sex=f", within="label"), encoder=cells)
    assert across.cap.reference == (0, 1)
    with pytest.raises(ValueError, match=r"'sex=x'.*sex=f, y=0"):
        FairClipper(mlp(), NormCap(reference="sex=x"), encoder=cells)
    with pytest.raises(ValueError, match="one group of each stratum"):
        FairClipper(mlp(), NormCap(reference="sex=f"), encoder=cells)  # two of one stratum
    with pytest.raises(ValueError, match="encoder"):
        FairClipper(mlp(), NormCap(reference="sex=f"), group_counts=COUNTS)


# ------------------------------------------------------------------ the record


def test_the_record_says_what_happened() -> None:
    model = mlp()
    clip = Norm(max_norm=0.01)
    cap = NormCap.per_step(0.5)
    clipper = FairClipper(model, cap, clip, group_counts=COUNTS)
    absent = []
    for batch in make_batches(6):
        parts = parts_of(model, batch)
        flat = torch.stack([torch.cat([t.flatten() for t in part]) for part in parts])
        norms, n_batch = flat.norm(dim=1), counts_in(batch[2])
        factors, reference = per_step_factors(norms[:-1].tolist(), n_batch, COUNTS, 0.5)
        weights = torch.tensor([*factors, 1.0], dtype=torch.float64)
        update = weights @ flat
        record = step(clipper, model, batch)

        assert record.counts.tolist() == n_batch
        for k, n in enumerate(n_batch):
            if n:
                assert float(record.group_norms[k]) == pytest.approx(float(norms[k]), rel=1e-9)
                assert float(record.cap_norms[k]) == pytest.approx(float(norms[k]), rel=1e-9)
            else:
                absent.append(k)
                assert record.group_norms[k].isnan()
        shares = weights * (flat @ update) / (update @ update)
        torch.testing.assert_close(record.share.double(), shares[:-1])
        assert float(record.share.sum() + shares[-1]) == pytest.approx(1.0)
        capped = [f * float(x) for f, x, n in zip(factors, norms, n_batch, strict=False) if n]
        assert float(record.ratio_after) == pytest.approx(max(capped) / reference)
        assert float(record.norm_uncapped) == pytest.approx(float(flat.sum(0).norm()))
        assert float(record.norm_capped) == pytest.approx(float(update.norm()))
        assert float(record.norm_clipped) == pytest.approx(norm(grads(model)))
        assert record.clip is not None
        assert float(record.clip.norm_before) == pytest.approx(float(update.norm()))
        assert not record.nonfinite.any()
        model.zero_grad()
    assert absent


def test_cosines_between_the_groups() -> None:
    model = mlp()
    clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
    for batch in make_batches(3):
        parts = parts_of(model, batch)[:-1]
        flat = torch.stack([torch.cat([t.flatten() for t in part]) for part in parts])
        norms = flat.norm(dim=1)
        expected = flat @ flat.T / norms.outer(norms)
        found = step(clipper, model, batch).cosine
        torch.testing.assert_close(found.double(), expected, equal_nan=True)
        model.zero_grad()


def test_without_unknown_rows_the_shares_sum_to_one() -> None:
    model = mlp(dtype=torch.float32)
    clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
    inputs, targets, codes = make_batches(1, dtype=torch.float32)[0]
    record = step(clipper, model, (inputs, targets, codes % K))
    assert float(record.share.sum()) == pytest.approx(1.0, abs=1e-6)
    assert record.clip is None
    assert record.layers is None


@pytest.mark.parametrize(
    "clip", [Norm(0.02), Norm(100.0), Chain(Value(0.01), Norm(0.02))], ids=repr
)
def test_the_clip_acts_on_the_combination(clip: Mode) -> None:
    model = mlp()
    clipper = FairClipper(model, NormCap.per_step(0.5), clip, group_counts=COUNTS)
    for batch in make_batches(3):
        parts = parts_of(model, batch)
        norms = [norm(part) for part in parts[:-1]]
        factors, _ = per_step_factors(norms, counts_in(batch[2]), COUNTS, 0.5)
        expected = [nn.Parameter(torch.zeros_like(t)) for t in parts[0]]
        for parameter, grad in zip(expected, combined(parts, factors), strict=True):
            parameter.grad = grad
        if isinstance(clip, Chain):
            torch.nn.utils.clip_grad_value_(expected, 0.01)
        torch.nn.utils.clip_grad_norm_(expected, 100.0 if clip == Norm(100.0) else 0.02)
        record = step(clipper, model, batch)
        assert_close(grads(model), [p.grad for p in expected if p.grad is not None], 1e-9)
        assert float(record.norm_clipped) == pytest.approx(norm(grads(model)))
        model.zero_grad()


@pytest.mark.parametrize("cap", [NormCap(0.5), NormCap(0.5, scope="layer")], ids=repr)
def test_watch_and_backward_agree(cap: NormCap) -> None:
    model, other = mlp(), mlp()
    watching, slow = (FairClipper(m, cap, group_counts=COUNTS) for m in (model, other))
    for batch in make_batches(4):
        record = step(watching, model, batch)
        slow.backward(row_losses(other, batch), batch[2])
        expected = slow.clip_grad_()
        assert_close(grads(model), grads(other), 1e-10)
        for name in ("group_norms", "factors", "share", "ratio_after", "norm_capped", "cap_norms"):
            found, value = getattr(record, name), getattr(expected, name)
            torch.testing.assert_close(found, value, equal_nan=True, rtol=1e-8, atol=1e-12)
        model.zero_grad()
        other.zero_grad()


# ------------------------------------------------------------------ resume


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    batches = make_batches(8, dtype=torch.float32)

    def build() -> tuple[Any, ...]:
        model = mlp(dtype=torch.float32)
        model.insert(2, nn.Dropout(0.3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        return model, optimizer, FairClipper(model, NormCap(0.5), Norm(0.1), n_groups=K)

    def run(parts: tuple[Any, ...], chosen: list[Batch]) -> None:
        model, optimizer, clipper = parts
        for batch in chosen:
            step(clipper, model, batch)
            optimizer.step()
            optimizer.zero_grad()

    whole = build()
    run(whole, batches[:4])
    saved = io.BytesIO()
    states = [part.state_dict() for part in whole]
    torch.save({"states": states, "rng": torch.get_rng_state()}, saved)
    run(whole, batches[4:])

    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed = build()
    for part, state in zip(resumed, loaded["states"], strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(loaded["rng"])
    run(resumed, batches[4:])
    assert_same(resumed[0], whole[0])
    pd.testing.assert_frame_equal(resumed[2].trace.to_frame(), whole[2].trace.to_frame())


def test_a_state_of_another_version_or_of_other_groups_is_refused() -> None:
    clipper = FairClipper(mlp(), group_counts=COUNTS)
    state = clipper.state_dict()
    with pytest.raises(ValueError, match="version 99"):
        clipper.load_state_dict({**state, "version": 99})
    with pytest.raises(ValueError, match="version None"):
        clipper.load_state_dict({})
    with pytest.raises(ValueError, match="other groups"):
        clipper.load_state_dict({**state, "names": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="row counts"):
        FairClipper(mlp(), group_counts=[600, 250, 151]).load_state_dict(state)


# ------------------------------------------------------------------ mixed precision, not finite


def scaled_step(
    clipper: FairClipper, model: nn.Module, batch: Batch, optimizer: Any, scaler: Any, by: float = 1
) -> StepRecord:
    with clipper.watch(batch[2]):
        scaler.scale(by * row_losses(model, batch).mean()).backward()
    record = clipper.clip_grad_(scaler, optimizer)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return record


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_scaled_run_equals_the_unscaled_one(scope: str) -> None:
    model, plain = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, plain)]
    cap = NormCap(0.5, scope=scope)
    clippers = [FairClipper(m, cap, Norm(0.1), group_counts=COUNTS) for m in (model, plain)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for batch in make_batches(5, dtype=torch.float32):
        record = scaled_step(clippers[0], model, batch, optimizers[0], scaler)
        expected = step(clippers[1], plain, batch)
        optimizers[1].step()
        optimizers[1].zero_grad()
        torch.testing.assert_close(record.group_norms, expected.group_norms, equal_nan=True)
    for found, value in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize("cap", [NormCap(0.5), NormCap(0.5, preserve_norm=True)], ids=repr)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_an_overflow_skips_the_step_and_touches_no_average(cap: NormCap, first: bool) -> None:
    model = mlp(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = FairClipper(model, cap, group_counts=COUNTS)
    batches = make_batches(3, dtype=torch.float32)
    averages = torch.full((K,), torch.nan, dtype=torch.float64)
    if not first:
        averages = step(clipper, model, batches[0]).cap_norms
        model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    weights = copy.deepcopy(model.state_dict())
    record = scaled_step(clipper, model, batches[1], optimizer, scaler, by=100)
    assert record.nonfinite.any()
    assert record.factors.tolist() == [1.0] * K
    torch.testing.assert_close(record.cap_norms, averages, equal_nan=True, rtol=0, atol=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert scaler.get_scale() < 3e38
    scaler.update(256.0)
    again = scaled_step(clipper, model, batches[2], optimizer, scaler)
    assert not again.nonfinite.any()
    assert not torch.equal(model.state_dict()["0.weight"], weights["0.weight"])


def test_both_or_neither_of_scaler_and_optimizer() -> None:
    clipper = FairClipper(mlp(), group_counts=COUNTS)
    with pytest.raises(ValueError, match="both"):
        clipper.clip_grad_(scaler=torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize("code", [0, 1, -1])
def test_a_gradient_that_is_not_finite_is_kept_or_named(code: int) -> None:
    inputs, targets, _ = make_batches(1)[0]
    codes = torch.tensor([0] * 8 + [1] * 4 + [2] * 3 + [-1])
    inputs[int((codes == code).nonzero()[0])] = torch.inf
    model = mlp()
    batch = (inputs, targets, codes)
    record = step(FairClipper(model, NormCap(0.5), group_counts=COUNTS), model, batch)
    assert record.factors.tolist() == [1.0] * K
    assert bool(record.nonfinite[code]) or code == -1
    raising = mlp()
    clipper = FairClipper(raising, NormCap(0.5), group_counts=COUNTS, on_nonfinite="raise")
    whose = "unknown rows" if code == -1 else f"group '{code}'"
    with pytest.raises(RuntimeError, match=rf"{whose} is not finite in layer '0'"):
        step(clipper, raising, batch)
    raising.zero_grad()
    assert step(clipper, raising, make_batches(1, seed=1)[0]).counts.sum() > 0


def test_autocast_adds_up_and_agrees_loosely() -> None:
    model = mlp(dtype=torch.float32)
    clipper = FairClipper(model, NormCap.per_step(0.5), group_counts=COUNTS)
    for batch in make_batches(3, dtype=torch.float32):
        batch = (batch[0], batch[1], batch[2] % K)
        parts = parts_of(model, batch)
        norms = [norm(part) for part in parts[:-1]]
        factors, _ = per_step_factors(norms, counts_in(batch[2]), COUNTS, 0.5)
        with clipper.watch(batch[2]):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = row_losses(model, batch).mean()
            loss.backward()
        record = clipper.clip_grad_()
        assert float(record.share.sum()) == pytest.approx(1.0, abs=1e-5)
        assert_close(grads(model), combined(parts, factors), 0.05)
        model.zero_grad()


# ------------------------------------------------------------------ what a step leaves behind


@pytest.mark.parametrize("cap", [NormCap(0.5), NormCap(0.5, scope="layer")], ids=repr)
@pytest.mark.parametrize("build", [mlp, conv_net], ids=["mlp", "conv"])
def test_nothing_waits_for_the_device_after_the_first_step(build: Any, cap: NormCap) -> None:
    model = build(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = FairClipper(model, cap, Norm(0.1), group_counts=COUNTS)
    for number, batch in enumerate(make_batches(4, dtype=torch.float32)):
        with ExitStack() as stack:
            with clipper.watch(batch[2]):
                if number > 0:
                    stack.enter_context(NoWaiting())
                row_losses(model, batch).mean().backward()
            clipper.clip_grad_()
            optimizer.step()
        optimizer.zero_grad()


def test_a_window_keeps_nothing_alive() -> None:
    model = mlp(dtype=torch.float32)
    clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
    kept = []  # as of a user who logs losses with their graphs
    for batch in make_batches(3, dtype=torch.float32):
        refs: list[StorageWeakRef] = []

        def keep(_module: Any, _args: Any, output: Tensor, refs: Any = refs) -> None:
            refs.append(StorageWeakRef(output.untyped_storage()))

        handles = [layer.register_forward_hook(keep) for layer in model]
        with clipper.watch(batch[2]):
            loss = row_losses(model, batch).mean()
            kept.append(loss)
            loss.backward()
        assert len(refs) >= 3
        assert all(ref.expired() for ref in refs)
        clipper.clip_grad_()
        for handle in handles:
            handle.remove()
        model.zero_grad()


@contextmanager
def hooks_unchanged(model: nn.Module) -> Iterator[None]:
    def hooks() -> list[list[int]]:
        return [
            [len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)]
            for m in model.modules()
        ]

    before = hooks()
    yield
    assert hooks() == before


def test_remove_takes_all_hooks_off() -> None:
    model = mlp(dtype=torch.float32)
    seen: list[int] = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    batch = make_batches(1, dtype=torch.float32)[0]
    with hooks_unchanged(model):
        clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
        step(clipper, model, batch)
        clipper.remove()
    model.zero_grad()
    with hooks_unchanged(model), FairClipper(model, NormCap(0.5), group_counts=COUNTS) as clipper:
        step(clipper, model, batch)
    seen.clear()
    model(batch[0])
    assert seen == [1]


def test_the_users_own_hooks_go_on_changing_outputs() -> None:
    model = mlp()
    model[0].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda _, __, output: output * 3)
    batch = make_batches(1)[0]
    parts = parts_of(model, batch)
    norms = [norm(part) for part in parts[:-1]]
    factors, _ = per_step_factors(norms, counts_in(batch[2]), COUNTS, 0.5)
    step(FairClipper(model, NormCap.per_step(0.5), group_counts=COUNTS), model, batch)
    assert_close(grads(model), combined(parts, factors), 1e-10)


def test_a_copied_model_is_free_of_the_clipper() -> None:
    model = mlp()
    clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
    batches = make_batches(2)
    step(clipper, model, batches[0])
    averaged = torch.optim.swa_utils.AveragedModel(model)
    model.zero_grad()
    with clipper.watch(batches[1][2]):
        row_losses(model, batches[1]).mean().backward()
        with torch.no_grad():
            averaged(batches[1][0])
    assert clipper.clip_grad_().counts.tolist() == counts_in(batches[1][2])


def test_the_groups_are_given_in_exactly_one_way(cells: GroupEncoder) -> None:
    ways: dict[str, Any] = {"encoder": cells, "group_counts": COUNTS, "n_groups": K}
    with pytest.raises(ValueError, match="exactly one"):
        FairClipper(mlp())
    for left_out in ways:
        with pytest.raises(ValueError, match="exactly one"):
            FairClipper(mlp(), **{name: ways[name] for name in ways if name != left_out})
    for name, way in ways.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FairClipper(mlp(), **{name: way})
    for n_groups in (0, -1):
        with pytest.raises(ValueError, match="group"):
            FairClipper(mlp(), n_groups=n_groups)
    with pytest.raises(ValueError, match="check"):
        FairClipper(mlp(), n_groups=K, check="always")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_nonfinite"):
        FairClipper(mlp(), n_groups=K, on_nonfinite="skip")  # type: ignore[arg-type]


def test_an_encoder_that_cannot_serve_is_refused() -> None:
    with pytest.raises((ValueError, RuntimeError), match="fit"):
        FairClipper(mlp(), encoder=GroupEncoder())
    without_label = GroupEncoder().fit(["f"] * 50 + ["m"] * 90)
    with pytest.raises(ValueError, match="with_label"):
        FairClipper(mlp(), NormCap(within="label"), encoder=without_label)
    with pytest.raises(ValueError, match="strata"):
        FairClipper(mlp(), NormCap(within="label"), group_counts=COUNTS)
