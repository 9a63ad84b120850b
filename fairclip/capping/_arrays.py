"""The cap's arithmetic runs by numpy in host memory, where a call costs a third, else by torch.

It is written once, with calls that the two spell alike (``xp.where``, ``xp.amin(x, -1)``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # np.ndarray or Tensor, the same throughout a call; no type says that


def namespace(array: Array) -> Any:
    """Return the module whose functions take ``array``."""
    return np if isinstance(array, np.ndarray) else torch


def host_view(array: Array) -> Array:
    """Return a tensor on the CPU as a numpy view, anything else as it is."""
    if isinstance(array, np.ndarray):
        return array
    array = array.detach()
    return array.numpy() if array.is_cpu else array


def given_as(given: Array, array: Array) -> Array:
    """Return ``array``, made from `host_view` of ``given``, as what ``given`` is."""
    as_tensor = isinstance(given, Tensor) and isinstance(array, np.ndarray)
    return torch.from_numpy(array) if as_tensor else array


def alike(one: Array, other: Array) -> bool:
    """Return whether the two are of one kind and dtype, and on one device."""
    return (
        type(one) is type(other)
        and one.dtype == other.dtype
        and (isinstance(one, np.ndarray) or one.device == other.device)
    )


def to_host(array: Array | Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the same as a numpy array; waits for the device, if it was on one."""
    return array.cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)


def to_place_of(other: Array, array: Array) -> Array:
    """Return ``array`` in the host's memory or on the device where ``other`` is."""
    if isinstance(other, np.ndarray):
        return to_host(array)
    return torch.as_tensor(array).to(other.device, non_blocking=True)
