"""Group codes that come from outside."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_codes(groups: Any) -> NDArray[np.int64]:
    """Return the codes ``(N,)`` as int64; -1 is unknown."""
    codes = np.asarray(groups)
    if codes.ndim != 1:
        raise ValueError(f"Group codes must be one per row, (N,), got the shape {codes.shape}.")
    if codes.dtype.kind not in "iu":
        raise TypeError(
            f"Group codes must be integers, got {codes.dtype}: `GroupEncoder` makes them from "
            "sensitive features."
        )
    if codes.size and codes.min() < -1:
        raise ValueError(f"Group codes must be -1 (unknown) or from 0 up, got {codes.min()}.")
    return codes.astype(np.int64)
