"""The slow and obvious way: one backward pass a group. Shapes: B rows, K groups."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairclip.gradients import GradientEngine


def group_gradients(
    model: nn.Module, losses: Tensor, codes: Tensor, n_groups: int
) -> list[list[Tensor]]:
    """Return the gradient of each group's part of ``losses.mean()``, and of the unknown rows."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        list(
            torch.autograd.grad(
                (losses * (codes == k)).sum() / len(losses),
                parameters,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        for k in [*range(n_groups), -1]
    ]


def norm(tensors: list[Tensor]) -> float:
    """Return the 2-norm of all entries, in float64."""
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def combined(parts: list[list[Tensor]], factors: list[float]) -> list[Tensor]:
    """Return sum_k f_k g_k; the last part is that of the unknown rows."""
    return [
        torch.stack([f * t for f, t in zip([*factors, 1.0], tensors, strict=True)]).sum(0)
        for tensors in zip(*parts, strict=True)
    ]


def assert_adds_up(
    model: nn.Module, row_losses: Callable[[], Tensor], codes: Tensor, tolerance: float
) -> None:
    """Hold the largest group's contribution against that of its rows as groups of their own.

    Alone the group is got by subtracting all others, apart its rows are measured themselves: both
    agree only where what is measured by rows adds up to the gradient.
    """
    rows = (codes == codes[codes >= 0].mode().values).nonzero().flatten()
    apart = codes.clone()
    apart[rows[1:]] = int(codes.max()) + 1 + torch.arange(len(rows) - 1)
    found = []
    for given in (codes, apart):
        n_groups = int(given.max()) + 1
        engine = GradientEngine(model, n_groups)
        model.zero_grad()
        with engine.watch(given):
            row_losses().mean().backward()
        engine.remove()
        engine.collect().recombine_(torch.isin(torch.arange(n_groups), given[rows]).double())
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    off = [a - b for a, b in zip(*found, strict=True)]
    assert norm(found[0]) > 0
    assert norm(off) <= tolerance * norm(found[0])
