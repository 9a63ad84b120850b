"""Compare tensors of a whole batch with those of some of its rows. Shapes: B rows."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fairclip.gradients._call import Call
from fairclip.gradients._layout import SHARED, Layout, Shape

_COARSE = 2.0**-16
"""A precision below which few roundings already look like other rows."""


def find_layout(
    whole: Tensor, part: Tensor, shape: Shape, index: Tensor, eps: float
) -> Layout | None:
    """Compare a tensor of the whole batch with the same one of the rows `index` alone.

    Returns the only layout under which the part holds those rows of the whole, ``SHARED`` where
    both are the same, None where no layout fits or several do: sizes are never guessed.
    """
    if whole.shape == part.shape:
        return SHARED if is_close(whole, part, eps) else None
    candidates = _candidates(whole.shape, part.shape, shape, index.numel())
    fitting = [c for c in candidates if _holds(c, whole, part, math.prod(shape), index, eps)]
    return fitting[0] if len(fitting) == 1 else None


def _candidates(whole: Shape, part: Shape, shape: Shape, n_part: int) -> list[Layout]:
    """Return the layouts that fit the sizes."""
    if len(shape) == 2 and whole[:2] == shape and part == (n_part, 1, *whole[2:]):
        return [Layout(1, "token")]
    if len(whole) != len(part):
        return []
    dims = [d for d in range(len(whole)) if whole[d] != part[d]]
    if len(dims) != 1:
        return []
    dim, n_rows = dims[0], math.prod(shape)
    if whole[dim] * n_part != part[dim] * n_rows or whole[dim] % n_rows:
        return []
    if whole[dim] == n_rows:
        return [Layout(dim)]
    return [Layout(dim, "row_major"), Layout(dim, "row_minor")]


def _holds(
    layout: Layout, whole: Tensor, part: Tensor, n_rows: int, index: Tensor, eps: float
) -> bool:
    """Say whether the part holds the rows `index` of the whole, and not others as well."""
    right = layout.select(whole, n_rows, index)
    if n_rows == 1 or not is_close(right, part, eps):
        return is_close(right, part, eps)
    if not whole.is_floating_point():
        return True
    # Rounding, by the size of each entry over the rows: nothing can be said against it.
    dims = (0, 1) if layout.order == "token" else layout.dim
    size = right.detach().abs().amax(dims, keepdim=True)
    n_roundings = 64 if eps < _COARSE else 4
    if bool(((right - part).abs() <= n_roundings * eps * size).all()):
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


def is_close(expected: Tensor, found: Tensor, eps: float) -> bool:
    """Say whether both hold the same values but for rounding."""
    return bool(closeness(expected, found, eps))


def closeness(expected: Tensor, found: Tensor, eps: float) -> Tensor:
    """Return whether both hold the same values but for rounding, () bool; waits for no device."""
    expected, found = expected.detach(), found.detach()
    same = expected == found
    if not (expected.is_floating_point() or expected.is_complex()) or not expected.numel():
        return same.all()
    # Kernels round differently for other batch sizes; wrong rows are off by the size of the values.
    tolerance = eps**0.5
    sizes = torch.where(expected.isfinite(), expected.abs(), 0.0)
    near = (expected - found).abs() <= tolerance * (sizes + sizes.amax())
    close: Tensor = near | same | (expected.isnan() & found.isnan())
    return close.all()


def precision(call: Call, tensors: Iterable[Any], *, autocast: bool = True) -> float:
    """Return the relative precision of a call that made `tensors`: that of its coarsest part."""
    kinds = {
        (x.dtype, x.device)
        for x in (*tensors, *call.module.parameters())
        if isinstance(x, Tensor) and x.is_floating_point()
    }
    if autocast and call.snapshot is not None:
        kinds |= {(dtype, torch.device(kind)) for kind, on, dtype in call.snapshot.autocast if on}
    return max([effective_eps(*kind) for kind in kinds], default=0.0)


def are_distinct(rows: Tensor) -> bool:
    """Say whether no two of the rows are equal, so that in another order they would be others."""
    flat = rows.reshape(len(rows), -1)
    flat = flat.float() if flat.is_floating_point() and flat.dtype.itemsize < 4 else flat
    return len(torch.unique(flat, dim=0)) == len(flat)
