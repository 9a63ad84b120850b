"""Clipping with several backward passes a step, and with components that are set to zero."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import get_total_norm

from fairclip import FairClipper, NormCap
from fairclip.clipping import Chain, ClipRecord, Mode, Norm, Value
from tests.clipping._inputs import parameters
from tests.gradients._oracle import combined, group_gradients, norm

Batch = tuple[Tensor, Tensor, Tensor]  # inputs (B, 4), targets (B,), codes (B,)
COUNTS = [600, 250, 150]
N_ROWS = 24
MAX_NORM = 0.2


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def make_batch(seed: int, codes: list[int]) -> Batch:
    random = torch.Generator().manual_seed(seed)
    groups = torch.tensor(codes)
    inputs = torch.randn(len(codes), 4, generator=random).double() * (4 - groups[:, None])
    return inputs, torch.randint(3, (len(codes),), generator=random), groups


BATCHES = (
    make_batch(1, [0, 0, 0, 1, 0, 2, 1, -1, 0, 0]),
    make_batch(2, [1, 1, 2, 0, 1, 1, 1, 1]),
    make_batch(3, [0, 2, 2, 0, 1, 1]),
)


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return what the rows of a micro-batch add to the mean over all rows of the step."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum") / N_ROWS


def flat(tensors: Sequence[Tensor | None]) -> Tensor:
    """Return gradients as one vector, (P,)."""
    return torch.cat([t.detach().flatten() for t in tensors if t is not None])


def gradient_of(batch: Batch) -> Tensor:
    model = build()
    return flat(torch.autograd.grad(loss_of(model, batch), list(model.parameters())))


def grad(model: nn.Module) -> Tensor:
    return flat([p.grad for p in model.parameters()])


def by_norm(gradient: Tensor) -> Tensor:
    return gradient * min(1.0, MAX_NORM / (float(gradient.norm()) + 1e-6))


def by_value(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.02, 0.02)


Formula = Callable[[Tensor], Tensor]
rules = pytest.mark.parametrize(
    ("mode", "formula"), [(Norm(MAX_NORM), by_norm), (Value(0.02), by_value)], ids=["norm", "value"]
)


# ------------------------------------------------------------------ plain modes


@rules
def test_once_a_window_is_the_clipped_sum(mode: Mode, formula: Formula) -> None:
    model = build()
    for batch in BATCHES:
        loss_of(model, batch).backward()
    mode(model.parameters())
    whole = torch.stack([gradient_of(batch) for batch in BATCHES]).sum(0)
    assert not torch.equal(formula(whole), whole)
    torch.testing.assert_close(grad(model), formula(whole))


@rules
def test_after_each_backward_pass_a_mode_clips_all_that_there_is_so_far(
    mode: Mode, formula: Formula
) -> None:
    """Called on `.grad` as it accumulates, a mode clips the first micro-batch again and again."""

    def accumulated(batches: Sequence[Batch]) -> Tensor:
        model = build()
        for batch in batches:
            loss_of(model, batch).backward()
            mode(model.parameters())
        return grad(model)

    expected = torch.zeros_like(gradient_of(BATCHES[0]))
    for batch in BATCHES:
        expected = formula(expected + gradient_of(batch))
    torch.testing.assert_close(accumulated(BATCHES), expected)
    assert not torch.allclose(accumulated(BATCHES[::-1]), expected, rtol=0.05)  # order matters


@rules
def test_micro_batches_on_their_own_add_up_to_as_many_thresholds(
    mode: Mode, formula: Formula
) -> None:
    model = build()
    total = torch.zeros(51, dtype=torch.float64)
    for batch in BATCHES:
        loss_of(model, batch).backward()
        mode(model.parameters())
        total += grad(model)
        model.zero_grad()
    expected = torch.stack([formula(gradient_of(batch)) for batch in BATCHES]).sum(0)
    torch.testing.assert_close(total, expected)
    assert float(total.norm()) > float(formula(total).norm())  # on each, and not on the sum


# ------------------------------------------------------------------ FairClipper


def joined(batches: Sequence[Batch]) -> Batch:
    inputs, targets, codes = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    return inputs, targets, codes


def capped_gradient_of(batch: Batch, max_ratio: float) -> Tensor:
    """Return the literal rule's combination; group 2 is in every batch, and the reference."""
    model = build()
    losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    parts = group_gradients(model, losses * len(losses) / N_ROWS, batch[2], 3)
    norms = [norm(part) for part in parts[:-1]]
    factors = [min(1.0, max_ratio * norms[2] / size) for size in norms[:2]]
    return flat(combined(parts, [*factors, 1.0]))


ratios = pytest.mark.parametrize("max_ratio", [0.5, math.inf])


def fair_clipper(model: nn.Module, mode: Mode, max_ratio: float) -> FairClipper:
    return FairClipper(model, NormCap.per_step(max_ratio), mode, group_counts=COUNTS)


@ratios
@rules
def test_several_windows_are_capped_and_clipped_as_one_batch(
    mode: Mode, formula: Formula, max_ratio: float
) -> None:
    model = build()
    clipper = fair_clipper(model, mode, max_ratio)
    for _ in range(2):  # the first step checks itself
        for batch in BATCHES:
            with clipper.watch(batch[2]):
                loss_of(model, batch).backward()
        record = clipper.clip_grad_()
        capped = capped_gradient_of(joined(BATCHES), max_ratio)
        torch.testing.assert_close(grad(model), formula(capped))
        assert float(record.norm_capped) == pytest.approx(float(capped.norm()))
        assert float(record.norm_clipped) == pytest.approx(float(formula(capped).norm()))
        assert float(record.norm_clipped) < float(record.norm_capped)
        model.zero_grad()


@ratios
@rules
def test_each_micro_batch_is_capped_and_clipped_on_its_own_and_added(
    mode: Mode, formula: Formula, max_ratio: float
) -> None:
    model = build()
    clipper = fair_clipper(model, mode, max_ratio)
    for _ in range(2):
        parts = [capped_gradient_of(batch, max_ratio) for batch in BATCHES]
        for batch, part in zip(BATCHES, parts, strict=True):
            with clipper.watch(batch[2]):
                loss_of(model, batch).backward()
            record = clipper.clip_grad_()
            assert float(record.norm_capped) == pytest.approx(float(part.norm()))
            assert float(record.norm_clipped) == pytest.approx(float(formula(part).norm()))
        expected = torch.stack([formula(part) for part in parts]).sum(0)
        torch.testing.assert_close(grad(model), expected)
        once = formula(torch.stack(parts).sum(0))
        assert not torch.allclose(once, expected, rtol=0.05)
        model.zero_grad()


# ------------------------------------------------------------------ float16

STEEP = torch.tensor([[40_000.0, 300.0], [40_000.0, -100.0]]).half()
"""The gradients of two micro-batches; float16 ends at 65,504."""


def test_float16_gradients_that_overflow_as_a_sum_are_lost_to_a_clip_at_the_end() -> None:
    weight = nn.Parameter(torch.zeros(2).half())
    for slope in STEEP:
        (weight @ slope).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [math.inf, 200.0]
    record = Norm(10_000.0)([weight])
    assert math.isinf(record.norm_before)
    assert weight.grad.isnan().tolist() == [True, False]
    assert float(weight.grad[1]) == 0.0


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Norm(10_000.0), [10_000.0, -5.0]),  # (10000, 75), then (50000, -25) / 5
        (Value(10_000.0), [10_000.0, 200.0]),
    ],
    ids=repr,
)
def test_float16_stays_finite_where_each_micro_batch_is_clipped(
    mode: Mode, expected: list[float]
) -> None:
    weight = nn.Parameter(torch.zeros(2).half())
    for slope in STEEP:
        (weight @ slope).backward()
        mode([weight])
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx(expected, rel=2e-3)


def test_float16_stays_finite_and_keeps_the_direction_with_a_clipper() -> None:
    model = nn.Linear(2, 1, bias=False).half()
    clipper = FairClipper(model, NormCap(math.inf), Norm(10_000.0), group_counts=COUNTS)
    for slope in STEEP:
        with clipper.watch([0, 1]):
            model(slope.expand(2, 2)).mean().backward()
        clipper.clip_grad_()
    assert grad(model).tolist() == pytest.approx([20_000.0, 50.0], rel=2e-3)


# ------------------------------------------------------------------ components that are set to zero


@dataclass(frozen=True)
class ZeroFirst(Mode):
    """Set the first rows of every gradient to zero, as one does to keep those of a table."""

    n_rows: int

    @torch.no_grad()
    def __call__(self, parameters: Any, state: Any = None) -> ClipRecord:  # noqa: ARG002
        tensors = [item[1] if isinstance(item, tuple) else item for item in parameters]
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        before = get_total_norm(gradients)
        for gradient in gradients:
            gradient[: self.n_rows] = 0
        after = get_total_norm(gradients)
        return ClipRecord(
            name="ZeroFirst",
            norm_before=before,
            norm_after=after,
            threshold=before.new_full((), math.nan),
            share_clipped=(after < before).to(before.dtype),
        )


def table() -> Tensor:
    """Return 16 rows whose gradients all have the norm 3."""
    (rows,) = parameters([torch.tensor([[1.0, 2.0, 2.0]]).expand(16, 3).double()])
    return rows


def test_zeroing_after_the_norm_leaves_the_step_shorter_than_max_norm() -> None:
    rows = table()
    record = Chain(Norm(1.0), ZeroFirst(12))([rows])
    # 12 of 16 equal rows took three quarters of the squared norm with them.
    assert float(record.stages[0].norm_after) == pytest.approx(1.0)
    assert float(record.norm_after) == pytest.approx(0.5)
    assert rows.grad is not None
    assert rows.grad.norm(dim=1).tolist() == pytest.approx([0.0] * 12 + [0.25] * 4)


def test_zeroing_before_the_norm_gives_the_rest_all_of_max_norm() -> None:
    rows = table()
    record = Chain(ZeroFirst(12), Norm(1.0))([rows])
    assert float(record.norm_after) == pytest.approx(1.0)
    assert rows.grad is not None
    assert rows.grad.norm(dim=1).tolist() == pytest.approx([0.0] * 12 + [0.5] * 4)


def test_one_long_row_that_is_zeroed_too_late_stops_all_others() -> None:
    gradient = torch.tensor([[3e3, 4e3], [0.3, 0.4]], dtype=torch.float64)
    late, early = parameters([gradient, gradient])
    Chain(Norm(1.0), ZeroFirst(1))([late])
    Chain(ZeroFirst(1), Norm(1.0))([early])
    assert late.grad is not None
    assert early.grad is not None
    assert float(late.grad.norm()) == pytest.approx(1e-4)  # 0.5 / 5000, though 0.5 is allowed
    assert torch.equal(early.grad[1], gradient[1])


def test_zeroing_before_and_after_is_the_same_where_components_do_not_share_a_norm() -> None:
    first, second = table(), table()
    Chain(Value(1.5), ZeroFirst(12))([first])
    Chain(ZeroFirst(12), Value(1.5))([second])
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)
    assert first.grad[12:].tolist() == [[1.0, 1.5, 1.5]] * 4


def test_a_clipper_takes_a_transform_in_its_chain() -> None:
    model = build()
    clipper = fair_clipper(model, Chain(ZeroFirst(2), Norm(MAX_NORM)), math.inf)
    batch = joined(BATCHES)
    with clipper.watch(batch[2]):
        loss_of(model, batch).backward()
    record = clipper.clip_grad_()
    kept = torch.cat(
        [(torch.arange(len(p)) >= 2).repeat_interleave(p[0].numel()) for p in model.parameters()]
    )
    torch.testing.assert_close(grad(model), by_norm(kept * capped_gradient_of(batch, math.inf)))
    assert float(record.norm_clipped) == pytest.approx(MAX_NORM, rel=1e-5)


Optimizers = dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]]
MOVE_ZEROED: Optimizers = {
    "momentum": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9),
    "weight decay": lambda weights: torch.optim.SGD(weights, 0.1, weight_decay=0.1),
    "adam": lambda weights: torch.optim.Adam(weights, 0.1),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.1, weight_decay=0.1),
}
optimizers = pytest.mark.parametrize("name", MOVE_ZEROED)


def moved_rows(optimizer: torch.optim.Optimizer, weight: Tensor, mode: Mode) -> Tensor:
    """Return which rows (N,) a step moves."""
    before = weight.detach().clone()
    optimizer.zero_grad()
    weight.square().sum().backward()
    mode([weight])
    optimizer.step()
    return (weight.detach() != before).any(1)


@optimizers
@pytest.mark.parametrize("masked", [Chain(ZeroFirst(1), Norm(1.0)), Chain(Norm(1.0), ZeroFirst(1))])
def test_a_zeroed_component_still_moves_by_momentum_and_weight_decay(
    name: str, masked: Mode
) -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = MOVE_ZEROED[name]([weight])
    assert moved_rows(optimizer, weight, Norm(1.0)).tolist() == [True, True, True]
    assert moved_rows(optimizer, weight, masked).tolist() == [True, True, True]
    plain = nn.Parameter(torch.ones(3, 2))
    alone = torch.optim.SGD([plain], 0.1)
    assert moved_rows(alone, plain, masked).tolist() == [False, True, True]


@optimizers
def test_a_parameter_without_a_gradient_stays_where_it_is(name: str) -> None:
    frozen, free = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer = MOVE_ZEROED[name]([frozen, free])
    for expected in (True, False):
        before = frozen.detach().clone()
        optimizer.zero_grad()
        (frozen.square().sum() + free.square().sum()).backward()
        if not expected:
            frozen.grad = None
        record = Norm(1.0)([frozen, free])
        optimizer.step()
        assert bool((frozen.detach() != before).any()) is expected
    assert float(record.norm_after) == pytest.approx(1.0)  # all of it for `free`
    assert free.grad is not None
    assert float(free.grad.norm()) == pytest.approx(1.0)
