"""Loss scaling, autocast and gradients that are not finite, watched and weighed."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import fairclip
from fairclip import FairClipper, NormCap
from fairclip.clipping import Norm
from fairclip.trace import StepRecord
from tests.clipper._inputs import (
    COUNTS,
    EVERY,
    Batch,
    Delta,
    K,
    lagged,
    make_batches,
    mlp,
    row_losses,
)
from tests.clipper._properties import (
    assert_close,
    assert_same,
    grads,
    is_measured,
    literal,
    parts_of,
    step,
    weighed_step,
)
from tests.gradients._oracle import combined, norm

How = Literal["watch", "weigh", "backward"]


class Scaled:
    """A loop with a scaler, as torch's documentation has it."""

    def __init__(
        self, clipper: FairClipper, model: nn.Module, how: How = "watch", scale: float = 2.0**10
    ) -> None:
        self.clipper = clipper
        self.model = model
        self.how = how
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def step(self, batch: Batch, **options: Any) -> StepRecord:
        record = self.clip(batch, **options)
        self.update()
        return record

    def clip(self, batch: Batch, *, by: float = 1.0, half: torch.dtype | None = None) -> StepRecord:
        def losses() -> Tensor:
            with torch.autocast("cpu", half, enabled=half is not None):
                return row_losses(self.model, batch)

        match self.how:
            case "watch":
                with self.clipper.watch(batch[2]):
                    self.scaler.scale(by * losses().mean()).backward()
            case "weigh":
                weighed = self.clipper.weigh(losses(), batch[2])
                self.scaler.scale(by * weighed.mean()).backward()
            case "backward":
                self.clipper.backward(self.scaler.scale(by * losses()), batch[2])
        return self.clipper.clip_grad_(self.scaler, self.optimizer)

    def update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


# ------------------------------------------------------------------ loss scaling


@pytest.mark.parametrize(
    ("how", "scope"), [("watch", "global"), ("watch", "layer"), ("weigh", "global")]
)
def test_a_scaled_run_equals_the_unscaled_one(how: How, scope: Literal["global", "layer"]) -> None:
    model, plain = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    cap = NormCap(0.5, floor=0.0, scope=scope)
    clippers = [lagged(m, cap, clip=Norm(0.1)) for m in (model, plain)]
    loop = Scaled(clippers[0], model, how)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for batch in make_batches(6, dtype=torch.float32):
        record = loop.step(batch)
        expected = (step if how == "watch" else weighed_step)(clippers[1], plain, batch)
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(record.group_norms, expected.group_norms, equal_nan=True)
    assert_same(model, plain)


@pytest.mark.parametrize("how", ["watch", "backward"])
def test_one_gradient_tensor_of_two_parameters_is_unscaled_once(how: How) -> None:
    model = Delta().double()
    loop = Scaled(FairClipper(model, NormCap.per_step(0.5), group_counts=COUNTS), model, how)
    lowest = 1.0
    for batch in make_batches(3):
        norms, factors, expected = literal(model, batch)
        record = loop.clip(batch)
        found = record.group_norms.nan_to_num(0.0).tolist()
        assert found == pytest.approx(norms, rel=1e-9)
        assert_close(grads(model), expected)
        lowest = min(lowest, *factors)
        loop.update()
    assert lowest < 0.9  # else nothing is tested


@pytest.mark.parametrize("cap", [NormCap(0.5), NormCap(0.5, preserve_norm=True)], ids=repr)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_an_overflow_skips_the_step_and_touches_no_average(cap: NormCap, first: bool) -> None:
    model = mlp(dtype=torch.float32)
    clipper = FairClipper(model, cap, group_counts=COUNTS)
    batches = make_batches(3, dtype=torch.float32)
    averages = torch.full((K,), torch.nan, dtype=torch.float64)
    if not first:
        averages = step(clipper, model, batches[0]).cap_norms
        model.zero_grad()
    loop = Scaled(clipper, model, scale=3e38)
    weights = copy.deepcopy(model)
    record = loop.step(batches[1], by=100)
    assert record.nonfinite.any()
    assert record.factors.tolist() == [1.0] * K
    torch.testing.assert_close(record.cap_norms, averages, equal_nan=True, rtol=0, atol=0)
    assert_same(model, weights)
    assert loop.scaler.get_scale() < 3e38
    loop.scaler.update(256.0)
    assert not loop.step(batches[2]).nonfinite.any()
    assert not torch.equal(model.get_parameter("0.weight"), weights.get_parameter("0.weight"))


@pytest.mark.parametrize("n_before", [1, 2, 4], ids=["learning", "not measured", "measured"])
@pytest.mark.parametrize(("half", "by"), [(None, 1e38), (torch.float16, 1e9)], ids=str)
def test_a_weighed_step_that_overflows_is_skipped_and_touches_no_average(
    n_before: int, half: torch.dtype | None, by: float
) -> None:
    model = mlp(dtype=torch.float32)
    clipper = lagged(model, clip=Norm(1e9), check=False)
    loop = Scaled(clipper, model, "weigh", scale=4.0)
    *first, batch, last = make_batches(n_before + 2, dtype=torch.float32)
    for one in first:
        loop.step(one, half=half)
    before, weights = clipper.state_dict(), copy.deepcopy(model)
    record = loop.step(batch, half=half, by=by)
    after = clipper.state_dict()
    assert_same(model, weights)
    assert loop.scaler.get_scale() == 2.0
    for key in ("sum", "weight"):
        assert torch.equal(before["cap"][key], after["cap"][key])
    assert torch.equal(before["lagged"]["factors"], after["lagged"]["factors"])
    assert record.nonfinite.any() == (n_before != 2)
    assert not loop.step(last, half=half).nonfinite.any()
    assert not torch.equal(model.get_parameter("0.weight"), weights.get_parameter("0.weight"))
    frame = clipper.trace.to_frame()
    assert frame["nonfinite"].tolist() == [False] * n_before + [True, False]
    assert len(fairclip.advise(clipper.trace).nonfinite) == 1


def test_both_or_neither_of_scaler_and_optimizer() -> None:
    clipper = FairClipper(mlp(), group_counts=COUNTS)
    with pytest.raises(ValueError, match="both"):
        clipper.clip_grad_(scaler=torch.amp.GradScaler("cpu"))


# ------------------------------------------------------------------ not finite


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


# ------------------------------------------------------------------ autocast and dtypes


@pytest.mark.parametrize("how", ["watch", "weigh"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_with_a_scaler_agrees_with_float64(how: How, half: torch.dtype) -> None:
    model = mlp(dtype=torch.float32)
    loop = Scaled(lagged(model), model, how)
    lowest, n_measured = 1.0, 0
    for inputs, targets, codes in make_batches(2 * EVERY, dtype=torch.float32):
        batch = (inputs, targets, codes % K)
        parts = parts_of(model, batch)
        record = loop.clip(batch, half=half)
        tolerance = 4 * torch.finfo(half).eps
        assert_close(grads(model), combined(parts, record.factors.tolist()), tolerance)
        if is_measured(record):
            norms = [norm(part) for part in parts[:-1]]
            found = record.group_norms.nan_to_num(0.0).tolist()
            assert found == pytest.approx(norms, rel=tolerance)
            assert float(record.share.sum()) == pytest.approx(1.0, abs=1e-5)
            n_measured += 1
        lowest = min(lowest, float(record.factors.min()))
        loop.update()
    assert n_measured == (2 * EVERY if how == "watch" else 2)
    assert lowest < 0.9  # else nothing is tested


def _clip_inside(clipper: FairClipper, model: nn.Module, batch: Batch) -> Tensor:
    with clipper.watch(batch[2]):
        row_losses(model, batch).mean().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return clipper.clip_grad_().group_norms


def _watch_inside(clipper: FairClipper, model: nn.Module, batch: Batch) -> Tensor:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        clipper.watch(batch[2]),
        torch.autocast("cpu", enabled=False),
    ):
        row_losses(model, batch).mean().backward()
    return clipper.clip_grad_().group_norms


def _with_low_matmul_precision(clipper: FairClipper, model: nn.Module, batch: Batch) -> Tensor:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return step(clipper, model, batch).group_norms  # a warning is an error
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("take", "tolerance"),
    [(_clip_inside, 1e-5), (_watch_inside, 1e-5), (_with_low_matmul_precision, 0.01)],
)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_low_precision_does_not_reach_the_measurement(
    take: Callable[[FairClipper, nn.Module, Batch], Tensor],
    tolerance: float,
    scope: Literal["global", "layer"],
) -> None:
    model = mlp(dtype=torch.float32)
    batch = make_batches(1, dtype=torch.float32)[0]
    clipper = FairClipper(model, NormCap(0.3, scope=scope), group_counts=COUNTS)
    norms, _, _ = literal(model, batch)
    found = take(clipper, model, batch).nan_to_num(0.0).tolist()
    assert found == pytest.approx(norms, rel=tolerance)


@pytest.mark.parametrize("after_a_step", [True, False])
def test_a_model_may_become_float64_after_the_clipper_was_made(after_a_step: bool) -> None:
    model = mlp(dtype=torch.float32)
    clipper = FairClipper(model, NormCap.per_step(0.5), group_counts=COUNTS)
    if after_a_step:
        step(clipper, model, make_batches(1, dtype=torch.float32)[0])
        model.zero_grad()
    model.double()
    for batch in make_batches(2):
        _, _, expected = literal(model, batch)
        step(clipper, model, batch)
        assert_close(grads(model), expected)
        model.zero_grad()


# ------------------------------------------------------------------ where others unscale


@pytest.mark.parametrize("how", ["watch", "weigh"])
def test_a_scaler_that_has_unscaled_already_does_so_once(how: How) -> None:
    """As in Lightning, which unscales before its hooks see the gradient."""
    model, other = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    clippers = [lagged(m, NormCap(0.5, floor=0.0), clip=Norm(0.1)) for m in (model, other)]
    loops = [Scaled(clipper, m, how) for clipper, m in zip(clippers, (model, other), strict=True)]
    unscales_first = loops[0]
    original = unscales_first.clipper.clip_grad_

    def clip_grad_(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> StepRecord:
        scaler.unscale_(optimizer)
        return original(scaler, optimizer)

    unscales_first.clipper.clip_grad_ = clip_grad_  # type: ignore[method-assign, assignment]
    for batch in make_batches(EVERY + 2, dtype=torch.float32):
        found, expected = (loop.step(batch) for loop in loops)
        torch.testing.assert_close(found.group_norms, expected.group_norms, equal_nan=True)
    assert_same(model, other)


def test_several_optimizers_share_a_scaler() -> None:
    model, plain = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    clipper, expected = (FairClipper(m, NormCap(0.5), group_counts=COUNTS) for m in (model, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    first, *others = model.parameters()
    optimizers = [torch.optim.SGD([first], lr=0.1), torch.optim.Adagrad(others, lr=0.1)]
    for batch in make_batches(3, dtype=torch.float32):
        with clipper.watch(batch[2]):
            scaler.scale(row_losses(model, batch).mean()).backward()
        with pytest.raises(ValueError, match=r"does not hold parameter.*as a list"):
            clipper.clip_grad_(scaler, optimizers[0])
        clipper.clip_grad_(scaler, optimizers)
        step(expected, plain, batch)
        for found, right in zip(grads(model), grads(plain), strict=True):
            torch.testing.assert_close(found, right)
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
        plain.load_state_dict(model.state_dict())
        plain.zero_grad()


def test_a_scaler_that_is_off_is_as_none() -> None:
    model, plain = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    batch = make_batches(1, dtype=torch.float32)[0]
    clipper, expected = (FairClipper(m, NormCap(0.5), group_counts=COUNTS) for m in (model, plain))
    off = torch.amp.GradScaler("cpu", enabled=False)
    with clipper.watch(batch[2]):
        off.scale(row_losses(model, batch).mean()).backward()
    clipper.clip_grad_(off, torch.optim.SGD(model.parameters()))
    step(expected, plain, batch)
    assert_close(grads(model), grads(plain))
