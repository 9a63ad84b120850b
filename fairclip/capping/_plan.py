"""What follows from the row counts alone. Shapes: K groups."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairclip._arrays import Array, namespace
from fairclip.capping._strata import Strata
from fairclip.exceptions import FairclipWarning

_CHOSEN = -1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may be the reference, and the floors that give all groups an equal vote.

    Args:
        rank: (K, K) float64, the least of row k is k's designated reference.
        eligible: (K, K) bool, which groups may be k's reference.
        resort: (K, K) inf, but on the diagonal the largest finite number: a group that has no
            reference is its own.
        rows: (K, K) rows of the groups of k's stratum, 0 outside it.
        counts: (K,) rows of the group.
        votes: (K,) rows of the group, or of the pool that it is in.
        floor: (K,) the designated reference's rows over ``votes``, at most 1.
    """

    rank: Array
    eligible: Array
    resort: Array
    rows: Array
    counts: Array
    votes: Array
    floor: Array


def make_plan(counts: Array, strata: Strata, min_rows: int, dtype: Any) -> Plan:
    """Return the plan for ``counts`` (K,); groups under ``min_rows`` are pooled unless chosen."""
    xp = namespace(counts)
    counts = xp.asarray(counts, dtype=xp.float64)  # whole numbers up to 2^53
    large = counts >= min_rows  # (K,)
    eligible = strata.member & (large | strata.chosen)  # (K, K)
    own = strata.group[:, None] == strata.group  # (K, K)
    last = xp.full_like(counts, xp.finfo(dtype).max, dtype=dtype)  # (K,)
    resort = xp.where(own, last, math.inf)  # (K, K)
    rank = xp.where(eligible, xp.where(strata.chosen, _CHOSEN, counts), resort)  # (K, K)
    rows = counts * strata.member  # (K, K)
    pooled = ~(large | strata.chosen)  # (K,)
    votes = xp.where(pooled, (rows * pooled).sum(-1), counts).clip(1.0)  # (K,)
    floor = (counts[rank.argmin(-1)] / votes).clip(0.0, 1.0)  # (K,)
    rows, counts, votes, floor = (xp.asarray(x, dtype=dtype) for x in (rows, counts, votes, floor))
    return Plan(rank, eligible, resort, rows, counts, votes, floor)


def warn_of_small_groups(counts: np.ndarray[Any, Any], strata: Strata, min_rows: int) -> None:
    """Name the groups that are pooled, and those of a stratum without a reference."""
    plan = make_plan(counts, strata, min_rows, np.float64)
    free = ~plan.eligible.any(-1)  # (K,)
    pooled = (counts < min_rows) & ~strata.chosen & ~free
    for mask, effect in (
        (free, "are in a stratum where no group has {} rows: they are not capped"),
        (pooled, "have fewer than {} rows: they share one floor and are never a reference"),
    ):
        codes = np.flatnonzero(mask).tolist()
        if codes:
            text = f"Groups {codes} {effect.format(min_rows)} (`min_reference_rows`)."
            warnings.warn(text, FairclipWarning, stacklevel=3)
