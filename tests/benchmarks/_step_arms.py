"""The arms: every way to a step whose groups are capped. Shapes: B rows, K groups, P parameters.

All caps are the same rule, so that all arms that compute it leave the same ``.grad``: each group's
gradient at most half as long as that of the group with the fewest rows. So it acts in every step,
with balanced groups too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fairclip
from tests.benchmarks._interleave import Call
from tests.benchmarks._step_models import Batch

MAX_RATIO = 0.5

Backward = Callable[[], object]
"""A forward and a backward pass that leave the capped gradient in ``.grad``."""


@dataclass(frozen=True)
class Arm:
    """How an arm is made for a model, which is prepared first.

    Its costs repeat after ``period`` steps, once the ``n_first`` first ones are over.
    """

    make: Callable[[nn.Module, Batch], Backward]
    period: int = 1
    n_first: int = 1
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model


def make_step(arm: Arm, model: nn.Module, batch: Batch) -> Call:
    """Return a whole training step."""
    model = arm.prepare(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    backward = arm.make(model, batch)

    def step() -> None:
        backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def reference(batch: Batch) -> int:
    """Return the group that the cap compares with."""
    return int(torch.bincount(batch.groups).argmin())


def capped(norms: Tensor, reference: int) -> Tensor:
    """Return the factor of each group, (K,)."""
    factors = (MAX_RATIO * norms[reference] / norms).clamp(max=1.0)
    factors[reference] = 1.0
    return factors


def plain(model: nn.Module, batch: Batch) -> Backward:
    """Make the step without groups."""
    return lambda: batch.losses(model).mean().backward()


def make_clipper(model: nn.Module, batch: Batch, measure_every: int = 1) -> fairclip.FairClipper:
    """Make a clipper with the benchmark's cap."""
    cap = fairclip.NormCap(MAX_RATIO, floor=0.0)
    counts = torch.bincount(batch.groups) * 100
    return fairclip.FairClipper(model, cap, group_counts=counts, measure_every=measure_every)


def exact(model: nn.Module, batch: Batch) -> Backward:
    """Make fairclip's exact step."""
    clipper = make_clipper(model, batch)

    def backward() -> None:
        with clipper.watch(batch.groups):
            batch.losses(model).mean().backward()
        clipper.clip_grad_()

    return backward


MEASURE_EVERY = 10


def lagged(model: nn.Module, batch: Batch) -> Backward:
    """Make fairclip's step with the factors of the steps before."""
    clipper = make_clipper(model, batch, measure_every=MEASURE_EVERY)

    def backward() -> None:
        clipper.weigh(batch.losses(model), batch.groups).mean().backward()
        clipper.clip_grad_()

    return backward


def group_losses(model: nn.Module, batch: Batch, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return what the rows of each group are of the mean loss."""
    losses = batch.losses(model) / len(batch.groups)
    return [losses.index_select(0, of_group).sum() for of_group in rows]


def autograd_loop(model: nn.Module, batch: Batch) -> Backward:
    """Make a backward pass for each group over one forward."""
    parameters = list(model.parameters())
    rows = [batch.rows(group) for group in range(batch.n_groups)]
    compared = reference(batch)

    def backward() -> None:
        losses = group_losses(model, batch, rows)
        parts = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        norms = torch.stack([torch.nn.utils.get_total_norm(part) for part in parts])
        factors = capped(norms, compared).tolist()
        total = torch._foreach_mul(parts[0], factors[0])
        for part, factor in zip(parts[1:], factors[1:], strict=True):
            torch._foreach_add_(total, part, alpha=factor)
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient

    return backward


# Measured steps 1, 2, 4 and 8 are checked, and then too few to matter.
OWN_ARMS = {
    "plain": Arm(plain),
    "exact": Arm(exact, n_first=8),
    "lagged": Arm(lagged, period=MEASURE_EVERY, n_first=4 * MEASURE_EVERY),
}
