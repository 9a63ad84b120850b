"""Numbers of a tensor, worked out on the host in float64, whatever its device and dtype."""

import math
from collections.abc import Iterable

from torch import Tensor


def values(tensor: Tensor) -> Tensor:
    """Return the tensor on the host, dense and detached, in float64."""
    tensor = tensor.detach()
    return (tensor.coalesce().values() if tensor.is_sparse else tensor).cpu().double()


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the norm of all of them together; None counts as zero."""
    return math.sqrt(sum(float(values(x).square().sum()) for x in tensors if x is not None))


def rms(tensor: Tensor) -> float:
    """Return the root mean square, 0 of nothing."""
    return norm([tensor]) / math.sqrt(max(tensor.numel(), 1))


def n_nonfinite(tensor: Tensor) -> int:
    """Return how many elements are inf or NaN."""
    return int((~values(tensor).isfinite()).sum())
