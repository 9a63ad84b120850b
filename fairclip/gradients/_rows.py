"""Whose rows a batch holds. Shapes: B rows, K groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slots:
    """The rows of some parts of a batch, one slot a part, ready to be gathered on the device.

    A part is a group's code, or K for what belongs to no group.
    """

    parts: tuple[int, ...]
    sizes: tuple[int, ...]
    index: Tensor  # (sum(sizes),) row numbers, slot by slot
    n_rows: int

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return what each slot has of ``rows`` (B * m, ...), (size * m, ...) each."""
        m = rows.shape[0] // self.n_rows
        if m == 1:
            return rows.index_select(0, self.index).split_with_sizes(self.sizes)
        chosen = rows.reshape(self.n_rows, m, *rows.shape[1:]).index_select(0, self.index)
        return chosen.flatten(0, 1).split_with_sizes([size * m for size in self.sizes])

    def indices(self) -> tuple[Tensor, ...]:
        """Return the row numbers of each slot, (size,) each."""
        return self.index.split_with_sizes(self.sizes)


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The rows of one batch, sorted by group on the host."""

    counts: tuple[int, ...]  # (K + 1,) rows of each group, and last those of no known group
    order: Tensor  # (B,) row numbers sorted by group, the unknown ones last

    @classmethod
    def from_codes(cls, codes: Tensor, n_groups: int) -> "BatchRows":
        """Sort checked codes (B,) in -1..K-1."""
        parts = codes.numpy() % (n_groups + 1)  # -1 becomes K; small: numpy is quicker
        counts = np.bincount(parts, minlength=n_groups + 1)
        order = torch.from_numpy(np.argsort(parts, kind="stable"))
        return cls(tuple(counts.tolist()), order)

    @property
    def n_rows(self) -> int:
        return self.order.numel()

    def present(self) -> tuple[int, ...]:
        """Return the parts that have rows here."""
        return tuple(part for part, count in enumerate(self.counts) if count)

    def slots(self, parts: Sequence[int], device: torch.device) -> Slots:
        """Gather the rows of `parts`, without waiting for the device."""
        starts = [0]
        for count in self.counts:
            starts.append(starts[-1] + count)
        pieces = [self.order[starts[part] : starts[part + 1]] for part in parts]
        index = torch.cat(pieces) if len(pieces) > 1 else pieces[0] if pieces else self.order[:0]
        sizes = tuple(self.counts[part] for part in parts)
        return Slots(tuple(parts), sizes, to_device(index, device), self.n_rows)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor without waiting for the device."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
