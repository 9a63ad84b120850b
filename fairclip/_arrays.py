"""Small arithmetic: by numpy in the host's memory, where a call costs a third, else by torch.

It is written once, with calls that the two spell alike (``xp.where``, ``xp.amin(x, -1)``). On a
device nothing here waits for it, `to_host` aside.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
"""A numpy array or a tensor, the same throughout a call, which no type says."""

_HOST = "cpu"


def on_host(device: torch.device) -> bool:
    """Say whether arithmetic on what is there is numpy's."""
    return device.type == _HOST


def namespace(array: Array) -> Any:
    """Return the module whose functions take ``array``."""
    return np if isinstance(array, np.ndarray) else torch


def as_array(tensor: Tensor) -> Array:
    """Return a tensor in the host's memory as a numpy view, any other as it is."""
    return tensor.numpy() if on_host(tensor.device) else tensor


def host_view(array: Array) -> Array:
    """Return a tensor in the host's memory as a numpy view without its graph, else the array."""
    return array if isinstance(array, np.ndarray) else as_array(array.detach())


def are_finite(norms: Array, present: Array) -> Array:
    """Say whether the norms (..., K) of the groups that are present (K,) are finite, as a bool."""
    return namespace(norms).where(present, norms, 0.0).max() < math.inf  # False for NaN


def given_as(given: Array, array: Array) -> Array:
    """Return ``array``, made from `host_view` of ``given``, as what ``given`` is."""
    as_tensor = isinstance(given, Tensor) and isinstance(array, np.ndarray)
    return torch.from_numpy(array) if as_tensor else array


def alike(one: Array, other: Array) -> bool:
    """Say whether the two are of one kind and dtype, and on one device."""
    return (
        type(one) is type(other)
        and one.dtype == other.dtype
        and (isinstance(one, np.ndarray) or one.device == other.device)
    )


def to_host(array: Array | Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the same as a numpy array; waits for the device, if it was on one."""
    return array.cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device."""
    if tensor.device == device:
        return tensor
    if tensor.is_cpu and device.type == "cuda":
        tensor = tensor.pin_memory()  # else the copy waits
    return tensor.to(device, non_blocking=True)


def placed(array: Array, device: torch.device) -> Array:
    """Return an array as those that belong to tensors on ``device`` are."""
    if on_host(device):
        return to_host(array)
    return to_device(torch.as_tensor(array), device)


def to_place_of(other: Array, array: Array) -> Array:
    """Return ``array`` as ``other`` is, in the host's memory or on its device."""
    if isinstance(other, np.ndarray):
        return to_host(array)
    return to_device(torch.as_tensor(array), other.device)
