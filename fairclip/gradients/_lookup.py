"""Sums over the rows of a table that need not be worked out. Shapes: M rows sorted by S slots."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fairclip.gradients._outer import PER_CALL, PER_FLOAT, Outer
from fairclip.gradients._rows import Slots


@dataclass(slots=True)
class Lookup(Outer):
    r"""What the rows of an embedding cause: :math:`g_k = \sum_{i \in k} e_i d_i^T`, e one-hot.

    ``inputs`` are the ids (M,) that the e stand for, ``shape`` is that of the table, (V, width).
    """

    def is_worth_keeping(self, n_slots: int) -> bool:
        """Say whether norms and a recombination from the rows cost less than from the tables."""
        if self.weight is None or self.grads.dtype not in (torch.float32, torch.float64):
            return False
        n_ids, width = self.shape
        of_tables = n_ids * width * (n_slots * 2 * PER_FLOAT + 4 * n_slots**2)
        of_rows = len(self.inputs) ** 2 * (width + PER_FLOAT) + 30 * PER_CALL
        return of_rows < of_tables

    def gramian(self) -> Tensor:
        """Return the dot products between the rows' own gradients, (M, M)."""
        # Not multiplied by 0: 0 * inf is nan.
        return (self.grads @ self.grads.T).masked_fill_(self.inputs[:, None] != self.inputs, 0.0)

    def along(self, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG002 - there is none
        """Return the dot product of each row's own gradient with the table, (M,)."""
        along: Tensor = torch.linalg.vecdot(weight.index_select(0, self.inputs), self.grads)
        return along

    def add_(
        self,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG002 - there is none
        by_row: Tensor,
        of_rest: float = 1.0,
    ) -> None:
        """Multiply the table by ``of_rest`` and add the rows times ``by_row`` (M, 1)."""
        weight.mul_(of_rest).index_add_(0, self.inputs, self.grads * by_row)

    def _products(self, slots: Slots) -> Tensor:
        n_slots, (n_ids, width) = len(slots.sizes), self.shape
        places = self.inputs
        if n_slots > 1:  # one table below the other
            starts = n_ids * torch.arange(n_slots, device=places.device)
            places = places + slots.spread(starts, places)[:, 0]
        return self.grads.new_zeros(n_slots * n_ids, width).index_add_(0, places, self.grads)
