"""Numbers of a tensor, read on the host; the work is done where the tensor is."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

# Norms between these are right in float32: no square that counts overflows or vanishes.
_SMALLEST, _LARGEST = 1e-12, 1e18


def values(tensor: Tensor) -> Tensor:
    """Return a copy on the host, dense and detached, in float64: for small tensors."""
    return tensor.detach().to_dense().cpu().double()


def stored(tensor: Tensor) -> Tensor:
    """Return the elements that are stored, detached; all of a dense tensor."""
    tensor = tensor.detach()
    if tensor.layout is torch.strided:
        return tensor
    return (tensor.coalesce() if tensor.is_sparse else tensor).values()


def _norms(rows: Tensor) -> Tensor:
    """Return the norm of each row, (n, m) to (n,), in float64 on the host."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=dtype).cpu().double()
    if not ((norms > _SMALLEST) & (norms < _LARGEST)).all():
        norms = torch.linalg.vector_norm(rows.cpu().double(), dim=1)
    return norms


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the norm of all of them together; None counts as zero."""
    found = [float(_norms(stored(x).flatten()[None])) for x in tensors if x is not None]
    return math.hypot(*found)


def rms(tensor: Tensor) -> float:
    """Return the root mean square, 0 of nothing."""
    return norm([tensor]) / math.sqrt(max(tensor.numel(), 1))


def row_rms(tensor: Tensor) -> float:
    """Return the root mean square of the median row, in dimension 0; a vector is one row."""
    rows = tensor.reshape(len(tensor) if tensor.dim() > 1 else 1, -1)
    return float(_norms(rows).median()) / math.sqrt(rows.shape[1])


def n_nonfinite(tensor: Tensor) -> int:
    """Return how many elements are inf or NaN."""
    return int((~stored(tensor).isfinite()).sum())


def n_nan(tensor: Tensor) -> int:
    """Return how many elements are NaN."""
    return int(stored(tensor).isnan().sum())
