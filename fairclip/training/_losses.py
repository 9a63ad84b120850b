"""One loss per row, of classes and of numbers. Shapes: B rows, N rows, C classes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairclip.training._steps import RowLosses


def n_outputs(n_classes: int) -> int:
    """Return the logits per row: one for two classes, otherwise one per class."""
    return 1 if n_classes == 2 else n_classes


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each row in nats.

    Shape:
        - ``outputs``: ``(B, 1)`` or ``(B, C)`` logits. ``targets``: ``(B,)`` int64 codes of the
          classes. Output: ``(B,)``.
    """
    if outputs.shape[1] == 1:
        logits = outputs.squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits), reduction="none"
        )
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of each row.

    Shape:
        - ``outputs``: ``(B, 1)``. ``targets``: ``(B,)``. Output: ``(B,)``.
    """
    return (outputs.squeeze(1) - targets).square()


def weighted(loss_fn: RowLosses, weights: Tensor | None) -> RowLosses:
    """Return ``loss_fn`` for rows that weigh ``weights``, ``(B,)`` on any device; None: all 1."""
    if weights is None:
        return loss_fn
    return lambda outputs, targets: (
        weights.to(outputs, non_blocking=True) * loss_fn(outputs, targets)
    )


def probabilities(outputs: Tensor) -> NDArray[np.float64]:
    """Return the classes' probabilities ``(N, C)``; each row sums to 1."""
    logits = outputs.double()
    if logits.shape[1] == 1:
        return torch.cat([-logits, logits], dim=1).sigmoid().numpy()
    return logits.softmax(dim=1).numpy()
