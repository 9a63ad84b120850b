"""Group gradients: codes and one backward pass in, every group's contribution out.

With t the gradient of a batch of B rows in K groups, `GroupGradients` holds t = sum_k g_k + u: the
norms (K + 1,), or (L, K + 1) by layer, the projections on the update, and the recombination
sum_k f_k g_k + u. `GradientEngine` measures it around the user's own forward and backward pass.
"""

from fairclip.gradients._engine import GradientEngine
from fairclip.gradients._sums import GroupGradients

__all__ = ["GradientEngine", "GroupGradients"]
