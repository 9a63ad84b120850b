"""The cap: bound each group's gradient norm relative to a reference group's.

Takes the norms of the groups' contributions, ``(K,)`` or ``(L, K)`` for L layers, and the row
counts, ``(K,)``; returns one factor per norm, of the same shape. The running averages between the
two live in a `CapState`.
"""

from fairclip.capping._norm_cap import NormCap
from fairclip.capping._state import CapState

__all__ = ["NormCap", "CapState"]  # noqa: RUF022 - in data-flow order
