"""One limit on all that an optimizer holds or does, as one vector. Shapes: n parameters."""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip.clipping._record import ClipRecord
from fairclip.clipping._scopes import Scopes


def limit(
    mode: str, max_norm: float, optimizer: Optimizer, parameters: list[Tensor], values: list[Tensor]
) -> tuple[Scopes, Tensor, ClipRecord]:
    """Measure a vector that has a part for each of these parameters, and change nothing yet.

    Returns:
        The vector, the factor (1,) that makes it as long as is allowed at most, and what it means
        to apply that.
    """
    whole = Scopes(["all"], [None], [len(values)], values, _labels(optimizer, parameters), 2.0)
    thresholds = torch.full_like(whole.before, max_norm)
    factors = torch.ones_like(whole.before)
    if max_norm < math.inf:
        factors = (thresholds / whole.before).clamp(max=1.0)
    return whole, factors, whole.record(mode, factors, thresholds)


def _labels(optimizer: Optimizer, parameters: list[Tensor]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for group in optimizer.param_groups:
        if "param_names" in group:
            names.update(zip(map(id, group["params"]), group["param_names"], strict=True))
    return tuple(names.get(id(p), str(place)) for place, p in enumerate(parameters))
