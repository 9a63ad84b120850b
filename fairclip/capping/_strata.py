"""Which groups are compared with each other. Shapes: K groups, S strata."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Strata:
    """A partition of the groups, with the references that the user chose.

    Args:
        group: (K,) the codes 0 to K - 1.
        of_group: (K,) the stratum of each group, 0 to S - 1.
        member: (S, K) the same as a mask.
        chosen: (K,) whether the user chose the group as a reference.
    """

    group: Tensor
    of_group: Tensor
    member: Tensor
    chosen: Tensor

    def to(self, device: torch.device) -> Self:
        """Return the same on ``device``."""
        tensors = (self.group, self.of_group, self.member, self.chosen)
        return type(self)(*(tensor.to(device, non_blocking=True) for tensor in tensors))


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
    group = torch.arange(n_groups)
    labels = torch.zeros_like(group) if labels is None else torch.as_tensor(labels, device="cpu")
    if labels.shape != group.shape:
        raise ValueError(
            f"`strata` must have one code per group, got shape {tuple(labels.shape)} for "
            f"{n_groups} groups."
        )
    names, of_group = torch.unique(labels, return_inverse=True)
    if references:
        if max(references) >= n_groups:
            raise ValueError(
                f"`reference` must be below the number of groups {n_groups}, got {references}."
            )
        covered = of_group[list(references)].tolist()
        if sorted(covered) != list(range(len(names))):
            raise ValueError(
                f"`reference` must be one group of each stratum, got the codes {references} in the "
                f"strata {labels[list(references)].tolist()} of {names.tolist()}."
            )
    return Strata(
        group=group,
        of_group=of_group,
        member=of_group == torch.arange(len(names))[:, None],
        chosen=torch.zeros(n_groups, dtype=torch.bool).index_fill(
            0, torch.tensor(references, dtype=torch.int64), True
        ),
    )
