"""Where the rows of the batch are in a tensor. Shapes: B rows, T tokens, m entries of each row."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shape = tuple[int, ...]
"""Of the codes: (B,), or (B, T) where every token is a row of its own."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The dimension of a tensor that holds the rows.

    ``order`` says how a dimension of B * m entries counts them: "row" has one entry a row (m = 1),
    "row_major" is b * m + j, "row_minor" is j * B + b. With "token" the dimensions 0 and 1 hold the
    rows together, b * T + t; n of them alone are (n, 1, ...).
    """

    dim: int
    order: Literal["row", "row_major", "row_minor", "token"] = "row"

    def fits(self, tensor: Tensor, shape: Shape) -> bool:
        """Say whether a tensor of this shape can hold the rows of codes of that one."""
        if self.dim >= tensor.ndim:
            return False
        if self.order == "token":
            return tuple(tensor.shape[:2]) == shape
        size, n_rows = tensor.shape[self.dim], math.prod(shape)
        return size == n_rows if self.order == "row" else size % n_rows == 0

    def rows(self, tensor: Tensor, n_rows: int) -> Tensor:
        """Return (B, ...), or (B, m, ...) where a row has m entries; a view where it can be one."""
        if self.order == "token":
            return tensor.flatten(0, 1)
        moved = tensor if self.dim == 0 else tensor.movedim(self.dim, 0)
        if self.order == "row_major":
            return moved.reshape(n_rows, -1, *moved.shape[1:])
        if self.order == "row_minor":
            return moved.reshape(-1, n_rows, *moved.shape[1:]).transpose(0, 1)
        return moved

    def describe(self) -> str:
        """Say which dimensions hold the rows."""
        if self.order == "token":
            return "dimensions 0 and 1 hold the rows"
        one = ", one entry each" if self.order == "row" else ""
        return f"dimension {self.dim} holds the rows{one}"

    def leading(self, tensor: Tensor, n_rows: int) -> Tensor:
        """Return the tensor (B * m, ...) with the entries of each row side by side."""
        rows = self.rows(tensor, n_rows)
        return rows if self.order in ("row", "token") else rows.flatten(0, 1)

    def select(self, tensor: Tensor, n_rows: int, index: Tensor) -> Tensor:
        """Return the tensor that holds only the rows `index`."""
        rows = self.rows(tensor, n_rows).index_select(0, index.to(tensor.device))
        if self.order == "token":
            return rows.unsqueeze(1)
        if self.order == "row_major":
            rows = rows.flatten(0, 1)
        elif self.order == "row_minor":
            rows = rows.transpose(0, 1).flatten(0, 1)
        return rows if self.dim == 0 else rows.movedim(0, self.dim)

    def exchange(self, tensor: Tensor, n_rows: int, index: Tensor) -> Tensor:
        """Return the tensor with the row after it in the place of each of the rows `index`."""
        exchanged = tensor.clone(memory_format=torch.contiguous_format)  # so rows are a view
        other = self.rows(tensor, n_rows).index_select(0, (index.to(tensor.device) + 1) % n_rows)
        self.rows(exchanged, n_rows).index_copy_(0, index.to(tensor.device), other)
        return exchanged

    def keep(self, tensor: Tensor, n_rows: int, index: Tensor) -> Tensor:
        """Return the tensor with zeros in place of all rows but `index`."""
        kept = tensor.new_zeros(tensor.shape)  # contiguous, so that its rows are a view
        # Copied, not multiplied by 0: 0 * inf is nan.
        rows = self.rows(tensor, n_rows).index_select(0, index)
        self.rows(kept, n_rows).index_copy_(0, index, rows)
        return kept


SHARED = Layout(-1)
"""The layout of a tensor that all rows share, such as a table or a mask of positions."""
