"""Where the rows of the batch are in a tensor. Shapes: B rows, m entries of each row."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """The dimension of a tensor that holds the rows.

    ``order`` says how a dimension of B * m entries counts them: "row" has one entry a row (m = 1),
    "row_major" is b * m + j, "row_minor" is j * B + b.
    """

    dim: int
    order: Literal["row", "row_major", "row_minor"] = "row"

    def fits(self, tensor: Tensor, n_rows: int) -> bool:
        """Say whether a tensor of this shape can hold that many rows."""
        if self.dim >= tensor.ndim:
            return False
        size = tensor.shape[self.dim]
        return size == n_rows if self.order == "row" else size % n_rows == 0

    def rows(self, tensor: Tensor, n_rows: int) -> Tensor:
        """Return a view (B, ...), or (B, m, ...) where a row has m entries."""
        moved = tensor if self.dim == 0 else tensor.movedim(self.dim, 0)
        if self.order == "row_major":
            return moved.reshape(n_rows, -1, *moved.shape[1:])
        if self.order == "row_minor":
            return moved.reshape(-1, n_rows, *moved.shape[1:]).transpose(0, 1)
        return moved

    def tensor(self, rows: Tensor) -> Tensor:
        """Undo `rows`."""
        if self.order == "row_major":
            rows = rows.flatten(0, 1)
        elif self.order == "row_minor":
            rows = rows.transpose(0, 1).flatten(0, 1)
        return rows if self.dim == 0 else rows.movedim(0, self.dim)

    def leading(self, tensor: Tensor, n_rows: int) -> Tensor:
        """Return the tensor (B * m, ...) with the entries of each row side by side."""
        rows = self.rows(tensor, n_rows)
        return rows if self.order == "row" else rows.flatten(0, 1)

    def select(self, tensor: Tensor, n_rows: int, index: Tensor) -> Tensor:
        """Return the tensor that holds only the rows `index`."""
        return self.tensor(self.rows(tensor, n_rows).index_select(0, index.to(tensor.device)))


SHARED = Layout(-1)
"""The layout of a tensor that all rows share, such as a table or a mask of positions."""


def find_layout(whole: Tensor, part: Tensor, n_rows: int, index: Tensor) -> Layout | None:
    """Compare a tensor of the whole batch with the same one of the rows `index` alone.

    Returns the only layout under which the part holds those rows of the whole, ``SHARED`` where
    both are the same, None where no layout fits or several do: sizes are never guessed.
    """
    if whole.shape == part.shape:
        return SHARED if is_close(whole, part) else None
    if whole.ndim != part.ndim:
        return None
    dims = [d for d in range(whole.ndim) if whole.shape[d] != part.shape[d]]
    if len(dims) != 1:
        return None
    dim, n_part = dims[0], index.numel()
    if whole.shape[dim] * n_part != part.shape[dim] * n_rows or whole.shape[dim] % n_rows:
        return None
    candidates = (
        [Layout(dim)]
        if whole.shape[dim] == n_rows
        else [Layout(dim, "row_major"), Layout(dim, "row_minor")]
    )
    fitting = [c for c in candidates if _holds(c, whole, part, n_rows, index)]
    return fitting[0] if len(fitting) == 1 else None


def _holds(layout: Layout, whole: Tensor, part: Tensor, n_rows: int, index: Tensor) -> bool:
    """Say whether the part holds the rows `index` of the whole, and not others as well."""
    right = layout.select(whole, n_rows, index)
    if n_rows == 1 or not is_close(right, part):
        return is_close(right, part)
    if not whole.is_floating_point():
        return True
    # Rounding, by the size of each entry over the rows: nothing can be said against it.
    size = right.detach().abs().amax(layout.dim, keepdim=True)
    eps = effective_eps(whole.dtype, whole.device)
    if bool(((right - part).abs() <= 64 * eps * size).all()):
        return True
    off = _distance(right, part)
    # Large values hide small ones: where other rows are about as close, nothing is known.
    return off * 8 < _distance(layout.select(whole, n_rows, (index + 1) % n_rows), part)


def _distance(expected: Tensor, found: Tensor) -> float:
    difference = (expected - found).detach().abs()
    return float(difference.nan_to_num(0.0, 0.0).amax()) if difference.numel() else 0.0


def effective_eps(dtype: torch.dtype, device: torch.device) -> float:
    """Return the relative precision of arithmetic, which may be less than the dtype's."""
    eps = float(torch.finfo(dtype).eps)
    if dtype != torch.float32:
        return eps
    matmul = {"highest": eps, "high": 2.0**-10, "medium": 2.0**-7}
    eps = max(eps, matmul[torch.get_float32_matmul_precision()])
    return max(eps, 2.0**-10) if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else eps


def is_close(expected: Tensor, found: Tensor) -> bool:
    """Say whether both hold the same values but for rounding."""
    found = found.detach()
    if not (expected.is_floating_point() or expected.is_complex()):
        return bool(torch.equal(expected, found))
    # Kernels round differently for other batch sizes; wrong rows are off by the size of the values.
    tolerance = effective_eps(expected.dtype, expected.device) ** 0.5
    return torch.allclose(
        expected, found, rtol=tolerance, atol=tolerance * _scale(expected), equal_nan=True
    )


def _scale(tensor: Tensor) -> float:
    sizes = torch.where(tensor.isfinite(), tensor.detach().abs(), 0.0)
    return float(sizes.amax()) if sizes.numel() else 0.0
