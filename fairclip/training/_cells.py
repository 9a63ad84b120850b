"""The (group, label) cells of a data set. Shapes: N rows, B rows of the batch, K cells."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """What rules for equalized odds know of the training rows.

    Attributes:
        counts: Rows of each cell, ``(K,)``, on the CPU.
        labels: The label of each cell, ``(K,)``, on the CPU.
    """

    counts: Tensor
    labels: Tensor

    @classmethod
    def of(cls, groups: Tensor, labels: Tensor) -> Self:
        """Return the cells of the rows with these codes and labels, both ``(N,)``.

        Raises:
            ValueError: If there is no known row, a code without a row, or a cell with two labels.
        """
        known = groups >= 0  # (N,)
        codes, of_rows = groups[known].cpu(), labels[known].cpu().long()
        counts = codes.bincount()  # (K,)
        if not len(counts) or not bool(counts.all()):
            raise ValueError(
                f"`groups` must have rows of every code from 0 up, got {counts.tolist()} rows."
            )
        of_cells = torch.zeros_like(counts)  # (K,)
        of_cells[codes] = of_rows
        if not torch.equal(of_cells[codes], of_rows):
            raise ValueError(
                "Each code of `groups` must have one label: "
                "`GroupEncoder(with_label=True)` makes such codes."
            )
        return cls(counts, of_cells)

    def member(self, groups: Tensor) -> Tensor:
        """Return which rows are in which cell, ``(K, B)``, on the CPU."""
        return groups[None, :] == torch.arange(len(self.counts))[:, None]

    def same_label(self) -> Tensor:
        """Return which cells have one label, ``(K, K)``, on the CPU."""
        return self.labels[None, :] == self.labels[:, None]
