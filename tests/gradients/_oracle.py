"""The slow and obvious way: one backward pass a group. Shapes: B rows, K groups."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Losses = Callable[[nn.Module], Tensor]
"""Per-row losses (B,) of a forward pass."""


def logits_of(output: Tensor | dict[str, Tensor]) -> Tensor:
    """Return the logits of a model that may return a dict."""
    return output["logits"] if isinstance(output, dict) else output


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
