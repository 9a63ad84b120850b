"""Steps as rows of numbers. Shapes: n steps, K groups, L layers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairclip.trace._record import StepRecord, work_out

SCALARS = (
    "ratio_after",
    "norm_uncapped",
    "norm_capped",
    "norm_clipped",
    "nonfinite",
    "clip_threshold",
    "clip_share",
)


def flatten(records: Sequence[StepRecord]) -> Tensor | np.ndarray:
    """Return what stands in a frame, in that order, (n, width) float64; waits for no device."""
    numbers = work_out(records)
    numbers["nonfinite"] = numbers["nonfinite"].any(-1)
    numbers["clip_threshold"] = _of_clips(records, "threshold")
    numbers["clip_share"] = _of_clips(records, "share_clipped")
    columns = ("counts", "group_norms", "cap_norms", "factors", "share", *SCALARS)
    parts = [numbers[name].reshape(len(records), -1) for name in columns]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate([part.astype(np.float64) for part in parts], -1)
    return torch.cat([part.double() for part in parts], -1)


def _of_clips(records: Sequence[StepRecord], name: str) -> Tensor | np.ndarray:
    """Return a number of each step's clip, (n,), NaN without one."""
    none = torch.full((), torch.nan, device=records[0].counts.device)
    stacked = torch.stack([none if r.clip is None else getattr(r.clip, name) for r in records])
    return stacked.numpy() if isinstance(records[0].raw.counts, np.ndarray) else stacked
