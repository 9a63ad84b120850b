"""Whose rows a batch holds. Shapes: B rows, T tokens, K groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import on_host, to_device


@dataclass(frozen=True, slots=True)
class Slots:
    """The rows of some parts of a batch, one slot a part, ready to be gathered on the device.

    A part is a group's code, or K for what belongs to no group.
    """

    parts: tuple[int, ...]
    sizes: tuple[int, ...]
    index: Tensor  # (sum(sizes),) row numbers, slot by slot
    n_rows: int
    shape: tuple[int, ...]  # of the codes

    def without_rows(self, parts: Sequence[int]) -> "Slots":
        """Return slots of sums whose rows are gone."""
        return Slots(tuple(parts), (), self.index[:0], 0, ())

    def without(self, slot: int) -> "Slots":
        """Return the others."""
        if not self.sizes:
            return self.without_rows(_cut(self.parts, slot))
        start = sum(self.sizes[:slot])
        return Slots(
            _cut(self.parts, slot),
            _cut(self.sizes, slot),
            torch.cat((self.index[:start], self.index[start + self.sizes[slot] :])),
            self.n_rows,
            self.shape,
        )

    def gather(self, rows: Tensor) -> Tensor:
        """Return the slots' rows of ``rows`` (B * m, ...), slot by slot, (M, ...)."""
        m = rows.shape[0] // self.n_rows
        if m == 1:
            return rows.index_select(0, self.index)
        by_row = rows.reshape(self.n_rows, m, *rows.shape[1:])
        return by_row.index_select(0, self.index).flatten(0, 1)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return what each slot has of ``rows`` (B * m, ...), (size * m, ...) each."""
        return self.split_gathered(self.gather(rows))

    def split_gathered(self, gathered: Tensor) -> tuple[Tensor, ...]:
        """Return what each slot has of what was gathered."""
        if len(self.sizes) == 1:
            return (gathered,)
        m = gathered.shape[0] // len(self.index)
        return gathered.split_with_sizes([size * m for size in self.sizes])

    def slices(self, gathered: Tensor) -> list[slice]:
        """Return where each slot is in what was gathered."""
        m = gathered.shape[0] // len(self.index)
        stops = [stop * m for stop in accumulate(self.sizes, initial=0)]
        return list(map(slice, stops, stops[1:]))

    def sums(self, gathered: Tensor) -> Tensor:
        """Return the sum over each slot of what was gathered, (S, ...)."""
        if len(self.sizes) == 1:
            return gathered.sum(0, keepdim=True)
        if not on_host(gathered.device) or gathered.dtype.itemsize < 4:
            return torch.stack([piece.sum(0) for piece in self.split_gathered(gathered)])
        m = gathered.shape[0] // len(self.index)
        starts = [start * m for start in accumulate(self.sizes[:-1], initial=0)]
        with np.errstate(all="ignore"):
            return torch.from_numpy(np.add.reduceat(gathered.numpy(), starts, 0))

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Return for each row that was gathered its slot's one of ``values`` (S,), (M, 1)."""
        m = like.shape[0] // len(self.index)
        pieces = zip(values.to(like.dtype).unbind(), self.sizes, strict=True)
        return torch.cat([value.expand(size * m) for value, size in pieces])[:, None]

    def indices(self) -> tuple[Tensor, ...]:
        """Return the row numbers of each slot, (size,) each."""
        return self.index.split_with_sizes(self.sizes)


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The rows of one batch, sorted by group on the host."""

    counts: tuple[int, ...]  # (K + 1,) rows of each group, and last those of no known group
    order: np.ndarray  # (B,) row numbers sorted by group, the unknown ones first
    shape: tuple[int, ...]  # of the codes

    @classmethod
    def from_codes(cls, codes: Tensor, n_groups: int) -> "BatchRows":
        """Sort codes on the host, (B,) or (B, T) where every token is a row.

        Raises:
            ValueError: If a code is not in -1..K-1.
        """
        flat = codes.numpy().reshape(-1)  # numpy is quicker on so few
        counts = tuple(count_codes(flat, n_groups).tolist())
        return cls(counts, flat.argsort(kind="stable"), tuple(codes.shape))

    @property
    def n_rows(self) -> int:
        """B, or B * T."""
        return len(self.order)

    def present(self) -> list[int]:
        """Return the parts that have rows here."""
        return [part for part, count in enumerate(self.counts) if count]

    def slots(self, parts: Sequence[int], device: torch.device) -> Slots:
        """Gather the rows of `parts`, without waiting for the device."""
        *counts, unknown = self.counts
        stops = list(accumulate(counts, initial=unknown))  # of the unknown ones, of group 0, ...
        pieces = [
            self.order[stops[part] : stops[part + 1]]
            if part < len(counts)
            else self.order[:unknown]
            for part in parts
        ]
        index = pieces[0] if len(pieces) == 1 else np.concatenate([self.order[:0], *pieces])
        sizes = tuple([self.counts[part] for part in parts])
        on_device = to_device(torch.from_numpy(index), device)
        return Slots(tuple(parts), sizes, on_device, self.n_rows, self.shape)


def _cut(values: tuple[int, ...], place: int) -> tuple[int, ...]:
    return values[:place] + values[place + 1 :]


def count_codes(codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the rows of each group, and last those of no known group, (K + 1,).

    Args:
        codes: (B,) or (B, T), -1 for no known group.
        n_groups: K.

    Raises:
        ValueError: If a code is not in -1..K-1.
    """
    try:
        counts = np.bincount(codes.reshape(-1) + 1, minlength=n_groups + 1)
    except ValueError:  # negative
        counts = codes[:0]
    if len(counts) != n_groups + 1:
        raise ValueError(
            f"`groups` must be in -1..{n_groups - 1}, got {codes.min()}..{codes.max()}."
        )
    return np.concatenate((counts[1:], counts[:1]))


def check_losses(losses: Tensor, codes: Tensor) -> None:
    """Raise where there is not one loss a code."""
    if losses.shape != codes.shape:
        remedy = " Use `reduction='none'`." if losses.ndim == 0 else ""
        raise ValueError(
            "`losses` and `groups` must hold one loss and one code a row, in the same shape, got "
            f"{tuple(losses.shape)} and {tuple(codes.shape)}.{remedy}"
        )
