"""Which groups are compared with each other. Shapes: K groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from fairclip._arrays import Array, to_host, to_place_of


@dataclass(frozen=True, slots=True)
class Strata:
    """A partition of the groups, with the references that the user chose.

    Args:
        group: (K,) the codes 0 to K - 1.
        member: (K, K) row k tells the groups of k's stratum, so that what is computed by row is
            there for every group.
        chosen: (K,) whether the user chose the group as a reference.
    """

    group: Array
    member: Array
    chosen: Array

    def to_place_of(self, array: Array) -> Self:
        """Return the same where ``array`` is."""
        return type(self)(*(to_place_of(array, x) for x in (self.group, self.member, self.chosen)))


def make_strata(
    n_groups: int,
    labels: Tensor | np.ndarray | Sequence[int] | None,
    references: tuple[int, ...],
) -> Strata:
    """Return the strata of ``labels`` (K,), or one of all groups for None.

    Raises:
        ValueError: If ``labels`` has another length, or ``references`` are neither empty nor one
            code per stratum.
    """
    group = np.arange(n_groups)
    codes = np.zeros_like(group) if labels is None else to_host(labels)
    if codes.shape != group.shape:
        raise ValueError(
            f"`strata` must have one code per group, got shape {codes.shape} for {n_groups} groups."
        )
    names, of_group = np.unique(codes, return_inverse=True)
    if references:
        if max(references) >= n_groups:
            raise ValueError(
                f"`reference` must be below the number of groups {n_groups}, got {references}."
            )
        covered = of_group[list(references)].tolist()
        if sorted(covered) != list(range(len(names))):
            raise ValueError(
                f"`reference` must be one group of each stratum, got the codes {references} in the "
                f"strata {codes[list(references)].tolist()} of {names.tolist()}."
            )
    return Strata(
        group=group,
        member=of_group == of_group[:, None],
        chosen=np.isin(group, references),
    )
