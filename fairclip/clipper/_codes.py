"""The groups of a batch as codes. Shapes: B rows, T tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Codes = Tensor | np.ndarray | Sequence[int]


def as_codes(groups: Codes) -> Tensor:
    """Return codes (B,) or (B, T) int64 on the CPU.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they have another shape, or hold nothing.
    """
    if not isinstance(groups, Tensor):
        try:
            array = np.array(groups)  # a copy: pandas hands out arrays that torch must not write to
        except ValueError as error:  # sequences of several lengths
            raise TypeError(
                f"`groups` must be integer codes, got {type(groups).__name__}: {error}"
            ) from error
        if array.dtype.kind not in "iufcb":
            raise TypeError(
                f"`groups` must be integer codes, got {array.dtype}. `GroupEncoder` makes them."
            )
        groups = torch.from_numpy(array)
    codes = groups
    if codes.ndim not in (1, 2) or codes.numel() == 0:
        raise ValueError(
            f"`groups` must be (B,), or (B, T) by token, and hold something, got "
            f"{tuple(codes.shape)}."
        )
    if codes.dtype == torch.int64 and codes.device.type == "cpu":
        return codes
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(
            f"`groups` must be integer codes, got {codes.dtype}. `GroupEncoder` makes them."
        )
    return codes.to("cpu", torch.int64)
