"""What a loss scaler did, and to whose gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from fairclip._optimizers import torch_optimizer


def optimizers_of(
    scaler: torch.amp.GradScaler | None, optimizer: Optimizer | Sequence[Optimizer] | None
) -> list[Optimizer]:
    """Return the optimizers as torch's own.

    Raises:
        TypeError: If one of the two is none.
        ValueError: If only one of the two is given.
    """
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"`scaler` must be a GradScaler, got {type(scaler).__name__}.")
    if (scaler is None) != (optimizer is None):
        raise ValueError("Pass both `scaler` and `optimizer`, or neither.")
    several = optimizer if isinstance(optimizer, Sequence) else [optimizer]
    return [torch_optimizer(one) for one in several if one is not None]


def is_unscaled(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
    """Say whether ``.grad`` was unscaled since the scaler's last update, as Lightning does."""
    state: Any = scaler._per_optimizer_states[id(optimizer)]["stage"]
    return state is OptState.UNSCALED


def has_unscaled(scaler: torch.amp.GradScaler) -> bool:
    """Say whether any optimizer's gradients were unscaled since the scaler's last update."""
    if not scaler.is_enabled():
        return False
    states: Any = scaler._per_optimizer_states.values()
    return any(state["stage"] is OptState.UNSCALED for state in states)
