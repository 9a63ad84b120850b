"""The definition: one backward pass a group."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fairclip.gradients._rows import BatchRows
from fairclip.gradients._sums import Sums


def sums_by_group(losses: Tensor, rows: BatchRows, parameters: Mapping[str, nn.Parameter]) -> Sums:
    """Return what the rows of each part cause in the gradient of ``losses.mean()``.

    Args:
        losses: One a row, whose graph is kept.
        rows: Whose they are.
        parameters: By name.
    """
    slots = rows.slots(rows.present(), losses.device)
    by_slot = [
        torch.autograd.grad(
            part.sum() / rows.n_rows,
            list(parameters.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for part in slots.split(losses.flatten())
    ]
    grads = zip(parameters, zip(*by_slot, strict=True), strict=True)
    return Sums(slots, {name: torch.stack(tensors) for name, tensors in grads})
