"""What the clipper reads off the Gramian of the parts. Shapes: K groups, L layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairclip.gradients import Array, GroupGradients


def norms_of(gramian: Array) -> Array:
    """Return the norm of each part, (..., K + 1)."""
    if gramian.ndim == 2:
        return gramian.diagonal() ** 0.5
    norms: Array = namespace(gramian).einsum("...kk->...k", gramian) ** 0.5
    return norms


def growth(gramian: Array, factors: Array) -> Array:
    """Return the norm of the total before the cap over that after it; 1 if either is no number."""
    xp = namespace(gramian)
    weights = xp.concatenate((factors, xp.ones_like(factors[..., :1])), -1)
    before = gramian.sum()
    after = (weights[..., None, :] @ gramian @ weights[..., None]).sum()
    with np.errstate(all="ignore"):
        ratio = (before / after) ** 0.5
    # Nothing capped: exactly 1, whatever the two sums round to.
    is_needed = xp.isfinite(ratio) & (factors != 1.0).any()
    needed: Array = xp.where(is_needed, ratio, 1.0)
    return needed


def raise_if_nonfinite(gramian: Array, gradients: GroupGradients, names: Sequence[str]) -> None:
    """Raise where a part of the gradient (L, K + 1, K + 1) is not finite; waits for the device."""
    finite = torch.as_tensor(norms_of(gramian)).isfinite()  # (L, K + 1)
    parts = [part for part, is_finite in enumerate(finite.all(0).tolist()) if not is_finite]
    if not parts:
        return
    # What is got by subtraction is not finite either when a held part is not.
    part = next((part for part in parts if part != gradients.rest), parts[0])
    layer = list(gradients.layers or ())[finite[:, part].tolist().index(False)]
    whose = f"group '{names[part]}'" if part < len(names) else "unknown rows"
    raise RuntimeError(
        f"The gradient of {whose} is not finite in layer '{layer}'. Lower the learning rate or "
        "the loss scale, or pass `on_nonfinite='keep'`."
    )


def namespace(array: Array) -> Any:
    """Return the module whose functions take it: all that is used here is in both."""
    return torch if isinstance(array, Tensor) else np
