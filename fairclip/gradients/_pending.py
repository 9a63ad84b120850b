"""The windows of one step, added up."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fairclip.gradients._measure import Sums
from fairclip.gradients._rows import BatchRows, Slots
from fairclip.gradients._sums import GroupGradients

_SMALL = 2**16  # entries


class Pending:
    """Collects group sums until the step ends.

    All that is kept for a group is a sum over rows: it could be added up over processes.

    Args:
        rest: The part that is never held, got by subtraction at the end; fixed for the step.
        n_groups: K.
    """

    def __init__(self, rest: int, n_groups: int) -> None:
        self.rest = rest
        self._counts = [0] * (n_groups + 1)
        self._sums: dict[int, dict[str, Tensor]] = {}

    def add(self, sums: Sums, slots: Slots, rows: BatchRows) -> None:
        """Add the sums of one window."""
        self._counts = [a + b for a, b in zip(self._counts, rows.counts, strict=True)]
        for position, part in enumerate(slots.parts):
            if part == self.rest:
                continue
            held = self._sums.setdefault(part, {})
            for name, tensors in sums.items():
                tensor = tensors[position]
                held[name] = held[name].add_(tensor) if name in held else tensor

    def gradients(
        self, parameters: Mapping[str, nn.Parameter], *, by_layer: bool, scale: Tensor | None
    ) -> GroupGradients:
        """Return the contributions, multiplied by ``scale``, beside the total in ``.grad``."""
        grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        sums = {
            part: [
                held[name].to(grad.dtype) if name in held else torch.zeros_like(grad)
                for name, grad in grads.items()
            ]
            for part, held in self._sums.items()
        }
        if scale is not None:
            for tensors in sums.values():
                torch._foreach_mul_(tensors, scale)
        totals, layers = list(grads.values()), None
        if by_layer:
            layers = dict.fromkeys((name.rpartition(".")[0] for name in parameters), 0)
            for name in grads:
                layers[name.rpartition(".")[0]] += 1
        elif _is_small(totals):
            totals = [_flat(totals)]
            sums = {part: [_flat(tensors)] for part, tensors in sums.items()}
        return GroupGradients(totals, sums, self.rest, tuple(self._counts), layers)


def write_back(gradients: GroupGradients, parameters: Iterable[nn.Parameter]) -> None:
    """Put the total into ``.grad``, where it is not there already."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if gradients.totals[0] is not grads[0]:
        pieces = torch._C._nn.unflatten_dense_tensors(gradients.totals[0], grads)
        torch._foreach_copy_(grads, pieces)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch._C._nn.flatten_dense_tensors(tensors)


def _is_small(tensors: list[Tensor]) -> bool:
    """Say whether one call on a copy of everything costs less than a call for each tensor."""
    first = tensors[0]
    return sum(t.numel() for t in tensors) <= _SMALL and all(
        t.dtype == first.dtype and t.device == first.device and t.is_contiguous() for t in tensors
    )
