"""The windows of one step, added up. Shapes: K groups, S slots."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fairclip.gradients._group_gradients import GroupGradients
from fairclip.gradients._rows import BatchRows, Slots
from fairclip.gradients._sums import Sums


class Pending:
    """Collects group sums until the step ends.

    Args:
        rest: The part that is never held, got by subtraction at the end.
        n_groups: K.
    """

    def __init__(self, rest: int, n_groups: int) -> None:
        self.rest = rest
        self._counts = [0] * (n_groups + 1)
        self._sums: Sums | None = None

    def add(self, sums: Sums, rows: BatchRows) -> None:
        """Add the sums of one window."""
        self._counts = [a + b for a, b in zip(self._counts, rows.counts, strict=True)]
        if self._sums is not None:
            sums = self._sums.added(sums)
        self._sums = sums.without(self.rest) if self.rest in sums.slots.parts else sums

    def count_as_unknown(self, n_rows: int) -> None:
        """Count everything, and so many more rows, as of no known group."""
        self.rest = len(self._counts) - 1
        self._counts = [0] * self.rest + [sum(self._counts) + n_rows]
        self._sums = None

    def parts(self, parameters: Mapping[str, nn.Parameter]) -> dict[int, dict[str, Tensor]]:
        """Return copies of what each part with rows, and the rest, caused, by parameter."""
        held = () if self._sums is None else self._sums.slots.parts
        parts: dict[int, dict[str, Tensor]] = {part: {} for part in sorted((*held, self.rest))}
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue
            rest = parameter.grad.clone()
            sums = None if self._sums is None else self._sums.get(name)
            for slot, part in enumerate(held):
                own = rest.new_zeros(rest.shape) if sums is None else sums[slot].to(rest, copy=True)
                parts[part][name] = own
                rest -= own
            parts[self.rest][name] = rest
        return parts

    def gradients(
        self, parameters: Mapping[str, nn.Parameter], *, by_layer: bool, scale: Tensor | None
    ) -> GroupGradients:
        """Return the contributions, multiplied by ``scale``, beside the total in ``.grad``."""
        totals = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        sums = self._sums or Sums(Slots((), (), torch.empty(0, dtype=torch.int64), 0, ()))
        layers: dict[str, list[str]] | None = None
        if by_layer:
            layers = {name.rpartition(".")[0]: [] for name in parameters}
            for name in totals:
                layers[name.rpartition(".")[0]].append(name)
        return GroupGradients(
            totals,
            sums if scale is None else sums.scaled(scale),
            self.rest,
            self._counts,
            layers,
        )
