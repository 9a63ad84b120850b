"""What follows from the row counts alone. Shapes: K groups, S strata."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fairclip.capping._strata import Strata
from fairclip.exceptions import FairclipWarning

NEVER = torch.iinfo(torch.int64).max
"""The rank of a group that cannot be a reference."""

_CHOSEN = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may be the reference, and the floors that give all groups an equal vote.

    Args:
        rank: (S, K) int64, the least of a row is the stratum's designated reference.
        rows: (S, K) rows of the groups of a stratum, 0 outside it.
        votes: (K,) rows of the group, or of the pool that it is in.
        floor: (K,) the designated reference's rows over ``votes``, at most 1.
    """

    rank: Tensor
    rows: Tensor
    votes: Tensor
    floor: Tensor


def make_plan(counts: Tensor, strata: Strata, min_rows: int, dtype: torch.dtype) -> Plan:
    """Return the plan for ``counts`` (K,); groups under ``min_rows`` are pooled unless chosen."""
    large = counts >= min_rows  # (K,)
    rank = torch.where(strata.member & large, counts, NEVER)  # (S, K)
    rank = torch.where(strata.member & strata.chosen, _CHOSEN, rank)
    rows = counts * strata.member  # (S, K)
    pooled = ~(large | strata.chosen)  # (K,)
    pool = (rows * pooled).sum(-1)  # (S,)
    votes = torch.where(pooled, pool[strata.of_group], counts).clamp(min=1).to(dtype)
    designated = counts[rank.min(-1).indices][strata.of_group]
    return Plan(rank, rows.to(dtype), votes, floor=(designated / votes).clamp(max=1.0))


def warn_of_small_groups(counts: Tensor, strata: Strata, min_rows: int) -> None:
    """Name the groups that are pooled, and those of a stratum without a reference."""
    plan = make_plan(counts, strata, min_rows, torch.float64)
    free = (plan.rank == NEVER).all(-1)[strata.of_group]  # (K,)
    pooled = (counts < min_rows) & ~strata.chosen & ~free
    for mask, effect in (
        (free, "are in a stratum where no group has {} rows: they are not capped"),
        (pooled, "have fewer than {} rows: they share one floor and are never a reference"),
    ):
        codes = mask.nonzero().flatten().tolist()
        if codes:
            text = f"Groups {codes} {effect.format(min_rows)} (`min_reference_rows`)."
            warnings.warn(text, FairclipWarning, stacklevel=3)
