"""A cap by the norms of the step itself. Shapes: K groups, L layers."""

import math

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import Array, namespace
from fairclip.capping import CapState, NormCap
from fairclip.gradients import GroupGradients, norms_of, with_rest
from fairclip.trace import RawStep


def cap_(gradients: GroupGradients, gramian: Array, cap: NormCap, state: CapState) -> RawStep:
    """Make the total what the cap leaves of it, and record the step.

    Args:
        gradients: The groups' contributions.
        gramian: Of the contributions, (K + 1, K + 1), or (L, K + 1, K + 1) for a cap by layer.
        cap: The bound.
        state: Of the cap.
    """
    counts = gradients.row_counts()
    norms = norms_of(gramian)[..., :-1]  # (K,) or (L, K), as the factors
    factors = cap(norms, counts, counts > 0, state)
    if not math.isinf(cap.max_ratio):
        gradients.recombine_(factors)
        if cap.preserve_norm:
            scale = _growth(gramian, factors)
            torch._foreach_mul_(
                gradients.totals, scale if isinstance(scale, Tensor) else float(scale)
            )
    return RawStep(counts, gramian, factors, state.averages, state.reference)


def _growth(gramian: Array, factors: Array) -> Array:
    """Return the norm of the total before the cap over that after it; 1 if either is no number."""
    xp = namespace(gramian)
    weights = with_rest(factors)
    before = gramian.sum()
    after = (weights[..., None, :] @ gramian @ weights[..., None]).sum()
    with np.errstate(all="ignore"):
        ratio = (before / after) ** 0.5
    # Nothing capped: exactly 1, whatever the two sums round to.
    is_needed = xp.isfinite(ratio) & (factors != 1.0).any()
    needed: Array = xp.where(is_needed, ratio, 1.0)
    return needed
