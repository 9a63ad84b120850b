"""Losses weighed by lagged factors against the rule worked out from scratch. Shapes: B, K."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fairclip
from fairclip import FairClipper, FairclipWarning, GroupEncoder, NormCap
from fairclip.clipping import Norm
from tests._no_waiting import NoWaiting
from tests.capping._oracle import SlowCap
from tests.clipper._inputs import COUNTS, EVERY, K, conv_net, lagged, make_batches, mlp, row_losses
from tests.clipper._properties import (
    assert_close,
    assert_same,
    counts_in,
    grads,
    hooks_unchanged,
    is_measured,
    parts_of,
    storages_of_outputs,
    warm,
)
from tests.clipper._properties import weighed_step as step
from tests.gradients._oracle import combined, norm


def force(clipper: FairClipper, factors: list[float]) -> None:
    """Let these be the factors in force."""
    state = clipper.state_dict()
    state["lagged"]["factors"] = torch.tensor(factors, dtype=torch.float64)
    clipper.load_state_dict(state)


# ------------------------------------------------------------------ the value and the gradient


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("measured", [False, True])
def test_the_losses_keep_every_bit(dtype: torch.dtype, measured: bool) -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, 4 if measured else 2)
    assert clipper.state_dict()["lagged"]["factors"].min() < 1
    losses = row_losses(model, make_batches(1)[0])[:5].to(dtype)
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 1e-30], dtype=dtype)
    losses = torch.where(torch.arange(5) < 5, special, losses)  # with a graph
    weighed = clipper.weigh(losses, torch.tensor([0, 1, 2, -1, 0]))
    assert weighed.dtype == dtype
    assert weighed.data_ptr() == losses.data_ptr()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(weighed.detach().view(bits), special.view(bits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_gradient_of_each_row_is_multiplied_by_its_groups_factor(dtype: torch.dtype) -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model)
    factors = clipper.state_dict()["lagged"]["factors"]
    inputs = torch.randn(5, dtype=dtype, requires_grad=True)
    codes = torch.tensor([0, 1, 2, -1, 0])
    grad = torch.autograd.grad(clipper.weigh(3 * inputs, codes).sum(), inputs)[0]
    expected = torch.cat([factors, torch.ones(1)])[codes]
    assert grad.dtype == dtype
    torch.testing.assert_close(
        grad.double(), 3 * expected, rtol=2 * torch.finfo(dtype).eps, atol=0.0
    )


def test_a_row_whose_loss_is_not_finite_does_not_touch_the_others() -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model)
    inputs = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    weighed = clipper.weigh(inputs.log(), torch.tensor([0, 1, 0]))
    assert weighed[0] == -torch.inf
    grad = torch.autograd.grad(weighed.sum(), inputs)[0]
    assert grad[0].isinf()
    assert grad[1:].isfinite().all()


def test_a_second_backward_pass_is_scaled_as_the_first() -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model)
    factor = float(clipper.state_dict()["lagged"]["factors"][0])
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(
        clipper.weigh(x**3, torch.tensor([0])).sum(), x, create_graph=True
    )
    (second,) = torch.autograd.grad(first, x)
    assert first.item() == pytest.approx(factor * 12)
    assert second.item() == pytest.approx(factor * 12)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 12),
    factors=st.lists(st.floats(0.01, 3.0), min_size=K, max_size=K),
    measured=st.booleans(),
)
def test_the_gradient_and_the_norms_are_those_from_scratch(
    seed: int, n_rows: int, factors: list[float], measured: bool
) -> None:
    model = mlp(seed)
    clipper = lagged(model)
    warm(clipper, model, 4 if measured else 2)
    force(clipper, factors)
    batch = make_batches(1, seed=seed, n_rows=n_rows)[0]
    parts = parts_of(model, batch)
    record = step(clipper, model, batch)
    assert_close(grads(model), combined(parts, factors), 1e-10)
    assert record.counts.tolist() == counts_in(batch[2])
    assert record.factors.tolist() == factors
    assert is_measured(record) == (measured and max(counts_in(batch[2])) > 0)
    assert not record.nonfinite.any()
    total = norm(combined(parts, factors))
    if measured:
        scale = max(norm(part) for part in parts)
        for k, count in enumerate(counts_in(batch[2])):
            found = record.group_norms[k].item()
            assert found == pytest.approx(norm(parts[k]), rel=1e-9, abs=1e-9 * scale) or not count
        assert record.norm_uncapped.item() == pytest.approx(
            norm(combined(parts, [1.0] * K)), rel=1e-7, abs=1e-9 * scale
        )
        assert record.norm_capped.item() == pytest.approx(total, rel=1e-7, abs=1e-9 * scale)


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("given_counts", [True, False])
def test_the_factors_follow_the_slow_rule_one_step_late(every: int, given_counts: bool) -> None:
    model = conv_net(dtype=torch.float64)
    groups: dict[str, Any] = {"group_counts": COUNTS}
    if not given_counts:
        groups = {"group_counts": None, "n_groups": K}
    cap = NormCap(max_ratio=0.7, smoothing=0.8, min_reference_rows=1)
    clipper = lagged(model, cap, measure_every=every, **groups)
    slow = SlowCap(
        replace(cap, smoothing=0.8 ** (every**0.5)), COUNTS if given_counts else None, [0] * K, K
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    factors, rows = [1.0] * K, [0] * K
    for number, batch in enumerate(make_batches(13)):
        parts = parts_of(model, batch)
        record = step(clipper, model, batch)
        torch.testing.assert_close(record.factors.tolist(), factors, rtol=1e-8, atol=0.0)
        assert_close(grads(model), combined(parts, factors), 1e-9)
        rows = [a + b for a, b in zip(rows, counts_in(batch[2]), strict=True)]
        is_due = number > 0 and (number - 1) % every == 0
        assert is_measured(record) == is_due
        if is_due:
            slow.counts = slow.counts if given_counts else _plus(slow.counts, rows, batch[2])
            factors = slow([[norm(part) for part in parts[:-1]]], counts_in(batch[2]))[0]
            rows = [0] * K
        optimizer.step()
        optimizer.zero_grad()


def test_with_balanced_labels_the_factors_are_those_of_watch() -> None:
    labels = [0] * 80 + [1] * 40
    sex = pd.Series((["f"] * 20 + ["m"] * 60) + (["f"] * 10 + ["m"] * 30), name="sex")
    encoder = GroupEncoder(with_label=True).fit(sex, labels)
    cap = NormCap(
        max_ratio=0.3, within="label", label_balance=0.5, smoothing=0.5, min_reference_rows=5
    )
    model = mlp()
    weighed, watched, unbalanced = (
        FairClipper(model, each, encoder=encoder, measure_every=1)
        for each in (cap, cap, replace(cap, label_balance=0.0))
    )
    before = torch.ones(4, dtype=torch.float64)
    for number, batch in enumerate(make_batches(8, n_groups=4)):
        found = step(weighed, model, batch)
        torch.testing.assert_close(found.factors, before)
        model.zero_grad()
        if number:  # the first weighed step is not measured
            assert is_measured(found)
            with watched.watch(batch[2]):
                row_losses(model, batch).mean().backward()
            before = watched.clip_grad_().factors
            model.zero_grad()
            with unbalanced.watch(batch[2]):
                row_losses(model, batch).mean().backward()
            plain = unbalanced.clip_grad_().factors
            model.zero_grad()
    scales = before / plain  # 2^.5 between labels of 80 and 40 rows, and the same votes in all
    share = 120 / (80 + 40 * 2**0.5)
    assert scales.tolist() == pytest.approx(
        [share if label == 0 else share * 2**0.5 for label in encoder.strata_]
    )
    assert plain.min() < 0.9


def _plus(counts: list[int], rows: list[int], codes: Tensor) -> list[int]:
    """Rows of the steps between, which the slow rule does not see."""
    return [a + b - c for a, b, c in zip(counts, rows, counts_in(codes), strict=True)]


def test_without_a_bound_training_is_the_same_bit_for_bit() -> None:
    model, plain = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.05) for m in (model, plain)]
    clipper = lagged(model, NormCap(max_ratio=float("inf")))
    for batch in make_batches(8, dtype=torch.float32):
        record = step(clipper, model, batch)
        row_losses(plain, batch).mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model, plain)
    assert record.factors.tolist() == [1.0] * K
    assert clipper.trace.to_frame()["norm[0]"].notna().sum() >= 2


@pytest.mark.parametrize("measured", [False, True])
def test_tokens_are_rows_of_their_own(measured: bool) -> None:
    model = mlp()
    clipper = lagged(model)
    draw = torch.Generator().manual_seed(0)
    for _ in range(5 if measured else 3):  # the last one is measured, or not
        inputs = torch.randn(4, 5, 4, generator=draw, dtype=torch.float64)
        codes = torch.randint(-1, K, (4, 5), generator=draw)
        targets = torch.randint(3, (4, 5), generator=draw)
        flat = (inputs.flatten(0, 1), targets.flatten(), codes.flatten())
        parts = parts_of(model, flat)
        losses = nn.functional.cross_entropy(model(inputs).mT, targets, reduction="none")
        clipper.weigh(losses, codes).mean().backward()
        record = clipper.clip_grad_()
        assert_close(grads(model), combined(parts, record.factors.tolist()), 1e-10)
        assert record.counts.tolist() == counts_in(codes)
        model.zero_grad()
    assert is_measured(record) == measured
    if measured:
        norms = [norm(part) for part in parts[:-1]]
        torch.testing.assert_close(record.group_norms.tolist(), norms)
        warm(clipper, model, 2)
        with pytest.raises(ValueError, match="make a new clipper"):
            warm(clipper, model, 1)


# ------------------------------------------------------------------ what is on the model, and when


def test_nothing_is_on_the_model_outside_of_measured_steps() -> None:
    model = mlp(dtype=torch.float32)
    clipper = lagged(model)
    n_hooks = []
    for batch in make_batches(8, dtype=torch.float32):
        n_hooks.append(sum(len(m._forward_hooks) for m in model.modules()))
        step(clipper, model, batch)
        model.zero_grad()
    assert [n > 0 for n in n_hooks] == [n % EVERY == 1 for n in range(8)]
    clipper.remove()
    with hooks_unchanged(mlp(dtype=torch.float32)):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("n_steps", [1, 4], ids=["learning", "learnt"])
def test_what_runs_between_two_steps_is_no_part_of_a_measured_one(
    context: Any, n_steps: int
) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False), *mlp()).double()
    model.eval()
    clipper, other = lagged(model), None
    warm(clipper, model, n_steps)
    batch, *evaluated = make_batches(4, seed=7)
    parts = parts_of(model, batch)
    with context():
        for one in evaluated:
            losses = row_losses(model, one)
            other = clipper.weigh(losses, one[2]) if context is torch.no_grad else losses
    assert other is not None
    factors = clipper.state_dict()["lagged"]["factors"].tolist()
    record = step(clipper, model, batch)
    assert is_measured(record)
    assert_close(grads(model), combined(parts, factors), 1e-10)
    expected = [
        norm(p) if n else torch.nan for p, n in zip(parts, counts_in(batch[2]), strict=False)
    ]
    torch.testing.assert_close(
        record.group_norms.tolist(), expected, rtol=1e-9, atol=1e-12, equal_nan=True
    )


class Mixed(nn.Module):
    """A recurrent layer, whose outputs are a tuple, and an attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = nn.GRU(2, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.recurrent(inputs.unflatten(1, (2, 2)))
        hidden, _ = self.attention(hidden, hidden, hidden)
        outputs: Tensor = self.head(hidden.mean(1))
        return outputs


@pytest.mark.parametrize("n_steps", [1, 4], ids=["learning", "learnt"])
@pytest.mark.parametrize("build", [lambda: mlp(dtype=torch.float32), Mixed], ids=["mlp", "mixed"])
def test_an_evaluation_with_graphs_leaves_nothing_in_memory(build: Any, n_steps: int) -> None:
    model = build()
    clipper = lagged(model)
    warm(clipper, model, n_steps)  # the next step is measured
    for batch in make_batches(5, dtype=torch.float32):
        with storages_of_outputs(model) as found:
            row_losses(model, batch)
        assert len(found) >= 3
        assert all(storage.expired() for storage in found)


def test_attention_and_recurrence() -> None:
    model = Mixed().double()
    clipper = lagged(model)
    for batch in make_batches(6):
        parts = parts_of(model, batch)
        record = step(clipper, model, batch)
        assert_close(grads(model), combined(parts, record.factors.tolist()), 1e-9)
        if is_measured(record):
            norms = [
                norm(p) if n else torch.nan for p, n in zip(parts, record.counts, strict=False)
            ]
            torch.testing.assert_close(record.group_norms.tolist(), norms, equal_nan=True)
        model.zero_grad()


def test_losses_without_gradients_are_handed_through() -> None:
    model = mlp()
    clipper = lagged(model)
    batch = make_batches(1)[0]
    with torch.no_grad():
        losses = row_losses(model, batch)
        assert clipper.weigh(losses, batch[2]) is losses
    with pytest.raises(RuntimeError, match="needs a forward and backward pass"):
        clipper.clip_grad_()
    clipper.state_dict()


# ------------------------------------------------------------------ several batches a step


@pytest.mark.parametrize("n_before", [1, 2], ids=["measured", "not measured"])
def test_batches_of_one_step_add_up(n_before: int) -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, n_before)
    factors = clipper.state_dict()["lagged"]["factors"].tolist()
    batches = make_batches(3, seed=3)
    expected = [parts_of(model, batch) for batch in batches]
    parts = [
        [torch.stack(tensors).sum(0) for tensors in zip(*of_part, strict=True)]
        for of_part in zip(*expected, strict=True)
    ]
    for batch in batches:
        clipper.weigh(row_losses(model, batch), batch[2]).mean().backward()
    record = clipper.clip_grad_()
    assert_close(grads(model), combined(parts, factors), 1e-10)
    assert record.counts.tolist() == counts_in(torch.cat([batch[2] for batch in batches]))
    assert is_measured(record) == (n_before == 1)
    if is_measured(record):
        norms = [norm(part) for part in parts[:-1]]
        torch.testing.assert_close(record.group_norms.tolist(), norms, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("joint", [True, False], ids=["one backward pass", "two, both late"])
def test_batches_that_cannot_be_told_apart_are_refused(joint: bool) -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, 1)
    weighed = [
        clipper.weigh(row_losses(model, batch), batch[2]).mean() for batch in make_batches(2)
    ]
    if joint:
        sum(weighed, torch.zeros(())).backward()
    else:
        for loss in weighed:
            loss.backward()
    with pytest.raises(RuntimeError, match="Several weighed batches"):
        clipper.clip_grad_()
    model.zero_grad()
    assert is_measured(step(clipper, model, make_batches(1)[0]))


@pytest.mark.parametrize("n_before", [1, 2], ids=["measured", "not measured"])
@pytest.mark.parametrize("backward", [True, False])
def test_a_batch_that_is_thrown_away_leaves_nothing(n_before: int, backward: bool) -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, n_before)
    factors = clipper.state_dict()["lagged"]["factors"].tolist()
    thrown, batch = make_batches(2, seed=5)
    loss = clipper.weigh(row_losses(model, thrown), thrown[2]).mean()
    if backward:
        loss.backward()
        model.zero_grad()
    parts = parts_of(model, batch)
    record = step(clipper, model, batch)
    assert_close(grads(model), combined(parts, factors), 1e-10)
    if n_before == 1 or not backward:
        assert record.counts.tolist() == counts_in(batch[2])


def test_micro_batches_are_clipped_one_by_one() -> None:
    batches = make_batches(6, seed=4)
    model, other = mlp(), mlp()
    clipper = lagged(model, NormCap(max_ratio=float("inf")), clip=Norm(0.01))
    exact = FairClipper(other, NormCap(max_ratio=float("inf")), Norm(0.01), group_counts=COUNTS)
    for batch in batches:
        step(clipper, model, batch)
        with exact.watch(batch[2]):
            row_losses(other, batch).mean().backward()
        exact.clip_grad_()
    assert_close(grads(model), grads(other), 1e-12)


# ------------------------------------------------------------------ what cannot be used


def test_a_gradient_that_was_unscaled_behind_the_clippers_back_is_found() -> None:
    model = mlp(dtype=torch.float32)
    clipper = lagged(model)
    warm(clipper, model, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    batch = make_batches(1, dtype=torch.float32)[0]
    losses = clipper.weigh(row_losses(model, batch), batch[2])
    scaler.scale(losses.mean()).backward()
    scaler.unscale_(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match=r"clip_grad_\(scaler, optimizer\)"):
        clipper.clip_grad_()


@pytest.mark.parametrize("n_before", [1, 2], ids=["measured", "not measured"])
def test_a_gradient_that_is_not_finite_is_named(n_before: int) -> None:
    model = mlp()
    clipper = lagged(model, on_nonfinite="raise", check=False)
    warm(clipper, model, n_before)
    inputs, targets, codes = make_batches(1)[0]
    inputs[int((codes == 1).nonzero()[0, 0])] = torch.inf
    named = "group '1'" if n_before == 1 else "parameter '0.weight'"
    with pytest.raises(RuntimeError, match=f"of {named}|in {named}"):
        step(clipper, model, (inputs, targets, codes))


def test_a_factor_of_zero_leaves_the_average_as_it_was() -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, 4)  # the next step is measured
    before = clipper.state_dict()["cap"]
    batch = make_batches(1)[0]
    batch[2][:3] = torch.arange(3)
    parts = parts_of(model, batch)
    force(clipper, [0.0, 0.5, 1.0])
    record = step(clipper, model, batch)
    after = clipper.state_dict()["cap"]
    assert record.group_norms.isnan().tolist() == [True, False, False]
    assert not record.nonfinite.any()
    assert not clipper.trace.to_frame()["nonfinite"].any()
    kept = before["sum"][0] / before["weight"][0]
    assert after["sum"][0] / after["weight"][0] == kept
    assert after["weight"][1] != before["weight"][1]
    assert_close(grads(model), combined(parts, [0.0, 0.5, 1.0]), 1e-10)
    assert clipper.state_dict()["lagged"]["factors"][0] > 0  # by the average that was kept


def test_a_step_that_cannot_be_measured_leaves_the_averages_as_they_were() -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, 7)  # the next step is measured, and not checked
    before = clipper.state_dict()
    batch = make_batches(1)[0]
    parts = parts_of(model, batch)
    outputs = model(batch[0][:, None])[:, 0]  # one dimension more than in any step before
    losses = nn.functional.cross_entropy(outputs, batch[1], reduction="none")
    clipper.weigh(losses, batch[2]).mean().backward()
    with pytest.warns(fairclip.FairclipWarning, match="no step before"):
        record = clipper.clip_grad_()
    after = clipper.state_dict()
    factors = before["lagged"]["factors"].tolist()
    assert_close(grads(model), combined(parts, factors), 1e-10)
    assert record.counts.tolist() == counts_in(batch[2])
    assert record.group_norms.isnan().all()
    assert not record.nonfinite.any()
    assert after["lagged"]["factors"].tolist() == factors
    assert torch.equal(before["cap"]["sum"], after["cap"]["sum"])


# ------------------------------------------------------------------ records


def test_the_trace_has_nan_where_nothing_was_measured() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    clipper = lagged(model, clip=Norm(0.05))
    for batch in make_batches(300):
        step(clipper, model, batch)
        optimizer.step()
        optimizer.zero_grad()
    frame = clipper.trace.to_frame()
    measured = frame["step"] % EVERY == 1
    of_norms = ["norm_uncapped", "norm_capped", "share[0]", "cosine[cap]"]
    assert frame.loc[measured, of_norms].notna().to_numpy().mean() > 0.7  # a group may be absent
    assert frame.loc[~measured, [*of_norms, "norm[0]", "ratio_after"]].isna().all(axis=None)
    always = ["norm_clipped", "factor[0]", "norm_before[Norm]", "n[0]"]
    assert frame[always].notna().all(axis=None)
    assert not frame["nonfinite"].any()
    assert frame.loc[2:, "cap_norm[2]"].notna().all()
    advice = fairclip.advise(clipper.trace).stages
    of_cap, of_clip = (advice[advice["stage"] == name].iloc[0] for name in ("cap", "Norm"))
    assert of_cap["acted"] > 0.9
    assert of_clip["n_steps"] == 300
    assert 0 < clipper.trace.acted()["cap"] <= 1
    assert fairclip.Diagnosis.from_trace(clipper.trace) is not None


def test_nothing_waits_for_the_device_in_steps_that_are_not_checked() -> None:
    model = mlp(dtype=torch.float32)
    clipper = lagged(model, clip=Norm(0.1))
    warm(clipper, model, 5)  # two of them were measured
    for batch in make_batches(4, dtype=torch.float32):
        losses = row_losses(model, batch)
        with NoWaiting():
            clipper.weigh(losses, batch[2]).mean().backward()
            clipper.clip_grad_()
        model.zero_grad()


# ------------------------------------------------------------------ the first measured step's check


def test_the_first_measured_step_checks_itself() -> None:
    class Hidden(nn.Module):
        """Uses a parameter outside of the module that holds it."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.inside(inputs)
            return outputs + inputs @ self.inside.weight.T

    model = Hidden()
    clipper = lagged(model)
    first, second = make_batches(2)
    step(clipper, model, first)
    model.zero_grad()
    parts = parts_of(model, second)
    with pytest.warns(fairclip.FairclipWarning, match="outside of the forward pass"):
        record = step(clipper, model, second)
    for k, part in enumerate(parts[:-1]):
        if record.counts[k]:
            assert record.group_norms[k].item() == pytest.approx(norm(part), rel=1e-9)


def test_calls_without_gradients_inside_of_a_forward_pass_are_told_apart() -> None:
    class Target(nn.Module):
        """Calls a layer on (T, B, 4) without gradients, then on (B, T, 4) with them."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inside = nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = torch.stack([inputs, inputs.roll(1, 1) ** 2, inputs.roll(2, 1)], 1)
            with torch.no_grad():
                target = self.inside(tokens.transpose(0, 1)).mean(0)
            outputs: Tensor = self.inside(tokens).square().mean(1) - target
            return outputs.tanh()

    model = Target()
    clipper = lagged(model)
    first, second = make_batches(2)
    step(clipper, model, first)
    model.zero_grad()
    parts = parts_of(model, second)
    record = step(clipper, model, second)
    norms = [norm(p) if n else torch.nan for p, n in zip(parts[:-1], record.counts, strict=True)]
    torch.testing.assert_close(record.group_norms.tolist(), norms, equal_nan=True)


# ------------------------------------------------------------------ rejected


@pytest.mark.parametrize("shape", [(), (1,), (16, 1), (16, 3)])
def test_losses_that_are_not_one_a_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"in the same shape.*\(16,\)"):
        lagged(mlp()).weigh(torch.ones(shape, requires_grad=True), torch.zeros(16).long())


@pytest.mark.parametrize(
    ("cap", "remedy"),
    [
        (NormCap(scope="layer"), "scope='global'"),
        (NormCap(preserve_norm=True), "preserve_norm=False"),
        (NormCap.per_step(), "smoothing above 0"),
    ],
    ids=repr,
)
def test_caps_that_rows_cannot_be_scaled_by(cap: NormCap, remedy: str) -> None:
    model = mlp()
    batch = make_batches(1)[0]
    with pytest.raises(ValueError, match=remedy):
        lagged(model, cap).weigh(row_losses(model, batch), batch[2])


@pytest.mark.parametrize("codes", [[0, 3], [-2, 0]])
def test_codes_out_of_range(codes: list[int]) -> None:
    model = mlp()
    clipper = lagged(model)
    with pytest.raises(ValueError, match=r"-1\.\.2"):
        clipper.weigh(torch.ones(2, requires_grad=True), codes)
    step(clipper, model, make_batches(1)[0])


@pytest.mark.parametrize("every", [0, -1, 2.5, None])
def test_steps_between_measurements_are_a_positive_number(every: Any) -> None:
    with pytest.raises(ValueError, match="measure_every"):
        lagged(mlp(), measure_every=every)


@pytest.mark.parametrize("n_before", [0, 1], ids=["not measured", "measured"])
def test_a_step_is_weighed_or_watched(n_before: int) -> None:
    model = mlp()
    clipper = lagged(model)
    warm(clipper, model, n_before)
    batch, other = make_batches(2)
    losses = clipper.weigh(row_losses(model, batch), batch[2])
    with pytest.raises(RuntimeError, match="not both"), clipper.watch(other[2]):
        pass
    with pytest.raises(RuntimeError, match="not both"):
        clipper.backward(losses, batch[2])
    with pytest.warns(FairclipWarning, match="under way"):
        state = clipper.state_dict()
    with pytest.raises(RuntimeError, match="under way"):
        clipper.load_state_dict(state)
    with pytest.raises(RuntimeError, match="No backward pass came"):
        clipper.clip_grad_()
    losses.mean().backward()
    clipper.clip_grad_()
    model.zero_grad()
    with clipper.watch(batch[2]):
        losses = row_losses(model, batch)
        with pytest.raises(RuntimeError, match=r"under way"):
            clipper.weigh(losses, batch[2])
        losses.mean().backward()
    losses = row_losses(model, other)
    with pytest.raises(RuntimeError, match="under way"):
        clipper.weigh(losses, other[2])
    clipper.clip_grad_()


def test_watched_and_weighed_steps_may_alternate() -> None:
    model = mlp()
    clipper = lagged(model)
    for number, batch in enumerate(make_batches(12)):
        parts = parts_of(model, batch)
        if number % 2:
            record = step(clipper, model, batch)
        else:
            with clipper.watch(batch[2]):
                row_losses(model, batch).mean().backward()
            record = clipper.clip_grad_()
        assert_close(grads(model), combined(parts, record.factors.tolist()), 1e-10)
        model.zero_grad()


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_a_forgotten_zero_grad_is_found(n_before: int) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = lagged(model)
    warm(clipper, model, n_before)
    first, second = make_batches(2)
    step(clipper, model, first)
    optimizer.step()
    with pytest.raises(RuntimeError, match="zero_grad"):
        clipper.weigh(row_losses(model, second), second[2])
