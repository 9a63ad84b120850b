"""The windows of one step, added up."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fairclip.gradients._measure import Sums
from fairclip.gradients._rows import BatchRows, Slots
from fairclip.gradients._sums import GroupGradients


class Pending:
    """Collects group sums until the step ends.

    All that is kept for a group is a sum over rows: it could be added up over processes.

    Args:
        rest: The part that is never held, got by subtraction at the end.
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
                # Not in place: autograd may have given one tensor for two parameters.
                held[name] = held[name] + tensor if name in held else tensor

    def forget(self, n_rows: int) -> None:
        """Count everything, and so many more rows, as of no known group."""
        self.rest = len(self._counts) - 1
        self._counts = [0] * self.rest + [sum(self._counts) + n_rows]
        self._sums = {}

    def gradients(
        self, parameters: Mapping[str, nn.Parameter], *, by_layer: bool, scale: Tensor | None
    ) -> GroupGradients:
        """Return the contributions, multiplied by ``scale``, beside the total in ``.grad``."""
        grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        sums = {
            part: [
                _like(held[name], grad) if name in held else torch.zeros_like(grad)
                for name, grad in grads.items()
            ]
            for part, held in self._sums.items()
        }
        if scale is not None:
            sums = {part: list(torch._foreach_mul(ts, scale)) for part, ts in sums.items()}
        layers = None
        if by_layer:
            layers = dict.fromkeys((name.rpartition(".")[0] for name in parameters), 0)
            for name in grads:
                layers[name.rpartition(".")[0]] += 1
        return GroupGradients(list(grads.values()), sums, self.rest, tuple(self._counts), layers)


def _like(tensor: Tensor, grad: Tensor) -> Tensor:
    return tensor if tensor.dtype == grad.dtype else tensor.to(grad.dtype)  # after autocast
