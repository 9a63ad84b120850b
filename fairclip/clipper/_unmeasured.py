"""What is recorded of a step in which no norm was measured. Shapes: K groups."""

from functools import cache

import torch

from fairclip._arrays import Array, placed


@cache
def unmeasured(n_groups: int, device: torch.device) -> tuple[Array, Array]:
    """Return a Gramian of which nothing is known, and whose norms are: nobody's."""
    gramian = torch.full((n_groups + 1, n_groups + 1), torch.nan, dtype=torch.float64)
    measured = torch.zeros(n_groups, dtype=torch.bool)
    return placed(gramian, device), placed(measured, device)
