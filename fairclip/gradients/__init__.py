"""Group gradients: codes and one backward pass in, every group's contribution out.

With t the gradient of a batch of B rows in K groups, `GroupGradients` holds t = sum_k g_k + u: its
Gramian (K + 1, K + 1), or by layer (L, K + 1, K + 1), and the recombination sum_k f_k g_k + u.
`GradientEngine` measures it around the user's own forward and backward pass; `WeighedStep` scales
what each row causes before the backward pass.
"""

from fairclip.gradients._engine import GradientEngine
from fairclip.gradients._gramian import norms_of, with_rest
from fairclip.gradients._group_gradients import GroupGradients
from fairclip.gradients._replay import without_autocast
from fairclip.gradients._rows import check_losses
from fairclip.gradients._weigh import WeighedStep

__all__ = [
    "GradientEngine",
    "GroupGradients",
    "WeighedStep",
    "check_losses",
    "norms_of",
    "with_rest",
    "without_autocast",
]
