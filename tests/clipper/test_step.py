"""Steps of FairClipper against the rule worked out from scratch. Shapes: B rows, K groups."""

import warnings
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, GroupEncoder, NormCap
from fairclip.clipping import Chain, Mode, Norm, Value
from fairclip.exceptions import FairclipWarning
from tests._no_waiting import NoWaiting
from tests.capping._oracle import SlowCap
from tests.clipper._inputs import COUNTS, Batch, K, conv_net, make_batches, mlp, row_losses
from tests.clipper._properties import (
    assert_close,
    assert_same,
    counts_in,
    grads,
    hooks_unchanged,
    literal,
    parts_of,
    per_step_factors,
    step,
    storages_of_outputs,
)
from tests.gradients._oracle import combined, norm

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
                stack.enter_context(pytest.warns(FairclipWarning, match="penalty"))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_preserved_norm_changes_no_bit_where_nothing_is_capped(
    dtype: torch.dtype, scope: Literal["global", "layer"]
) -> None:
    model, plain = mlp(dtype=dtype), mlp(dtype=dtype)
    cap = NormCap(max_ratio=1e3, preserve_norm=True, scope=scope)
    clipper = FairClipper(model, cap, group_counts=COUNTS)
    for batch in make_batches(10, dtype=dtype):
        row_losses(plain, batch).mean().backward()
        assert bool((step(clipper, model, batch).factors == 1).all())
        assert all(map(torch.equal, grads(model), grads(plain)))
        model.zero_grad()
        plain.zero_grad()


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
        _, _, expected = literal(model, batch)
        step(clipper, model, batch)
        assert_close(grads(model), expected, 1e-5)
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
        assert_close(grads(model), [g * scale for g in grads(bare)])
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
    assert by_name.cap == NormCap(reference=(2,), smoothing=0.0)
    sexes = GroupEncoder().fit(["f"] * 50 + ["m"] * 90)
    named = FairClipper(mlp(), NormCap(reference=sexes.names_[1]), encoder=sexes)
    assert named.cap == NormCap(reference=(1,))
    across = FairClipper(mlp(), NormCap(reference="sex=f", within="label"), encoder=cells)
    assert across.cap == NormCap(reference=(0, 1), within="label")
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
        _, _, capped = literal(model, batch)
        expected = [nn.Parameter(torch.zeros_like(grad)) for grad in capped]
        for parameter, grad in zip(expected, capped, strict=True):
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
        assert_close(grads(model), grads(other))
        for name in ("group_norms", "factors", "share", "ratio_after", "norm_capped", "cap_norms"):
            found, value = getattr(record, name), getattr(expected, name)
            torch.testing.assert_close(found, value, equal_nan=True, rtol=1e-8, atol=1e-12)
        model.zero_grad()
        other.zero_grad()


# ------------------------------------------------------------------ what a step leaves behind


@pytest.mark.parametrize("cap", [NormCap(0.5), NormCap(0.5, scope="layer")], ids=repr)
@pytest.mark.parametrize("build", [mlp, conv_net], ids=["mlp", "conv"])
def test_nothing_waits_for_the_device_in_steps_that_are_not_checked(
    build: Any, cap: NormCap
) -> None:
    model = build(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = FairClipper(model, cap, Norm(0.1), group_counts=COUNTS)
    for number, batch in enumerate(make_batches(7, dtype=torch.float32), 1):
        with ExitStack() as stack:
            with clipper.watch(batch[2]):
                if number not in (1, 2, 4):
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
        with storages_of_outputs(model) as found, clipper.watch(batch[2]):
            loss = row_losses(model, batch).mean()
            kept.append(loss)
            loss.backward()
        assert len(found) >= 3
        assert all(storage.expired() for storage in found)
        clipper.clip_grad_()
        model.zero_grad()


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
    _, _, expected = literal(model, batch)
    step(FairClipper(model, NormCap.per_step(0.5), group_counts=COUNTS), model, batch)
    assert_close(grads(model), expected)


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
    with pytest.raises(ValueError, match="must be fitted"):
        FairClipper(mlp(), encoder=GroupEncoder())
    without_label = GroupEncoder().fit(["f"] * 50 + ["m"] * 90)
    with pytest.raises(ValueError, match="with_label"):
        FairClipper(mlp(), NormCap(within="label"), encoder=without_label)
    with pytest.raises(ValueError, match="strata"):
        FairClipper(mlp(), NormCap(within="label"), group_counts=COUNTS)


def test_groups_smaller_than_the_least_reference_are_named() -> None:
    with pytest.warns(FairclipWarning, match=r"\[2\].*min_reference_rows"):
        FairClipper(mlp(), group_counts=[500, 400, 10])
