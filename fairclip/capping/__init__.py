"""The cap: one factor per group, by what the groups' rows cause or by how they are predicted.

`NormCap` takes the norms of the groups' contributions, ``(K,)`` or ``(L, K)`` for L layers, and the
row counts, ``(K,)``; it returns one factor per norm, of the same shape. `TargetCap` takes how many
rows of each group were predicted right, and how many there were, ``(K,)``; it returns ``(K,)``
factors. What they remember between two calls is in a `CapState` or a `TargetState`.
"""

from fairclip.capping._norm_cap import NormCap
from fairclip.capping._state import CapState
from fairclip.capping._target_cap import TargetCap
from fairclip.capping._target_state import TargetState

__all__ = ["NormCap", "CapState", "TargetCap", "TargetState"]  # noqa: RUF022 - in data-flow order
