"""Where an estimator's training ended, so that a later call can go on from there."""

import copy
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor
from torch.optim import Optimizer

from fairclip.clipper import FairClipper
from fairclip.groups import GroupEncoder


@dataclass(frozen=True)
class Position:
    """What training goes on with, beside the module; it can be read without a GPU.

    Args:
        seed: Of the batches, and of what is random in the module.
        encoder: The groups; None: training without a cap.
        optimizer: The optimizer's state; empty at the start.
        clipper: The clipper's state; empty at the start.
    """

    seed: int
    encoder: GroupEncoder | None
    optimizer: dict[str, Any] = field(default_factory=dict)
    clipper: dict[str, Any] = field(default_factory=dict)

    def after(self, optimizer: Optimizer, clipper: FairClipper) -> Self:
        """Return where these two are now."""
        state = {**clipper.state_dict(), "trace": clipper.trace}  # one trace, not a copy each call
        return type(self)(self.seed, self.encoder, _on_cpu(optimizer.state_dict()), _on_cpu(state))

    def restore(self, optimizer: Optimizer, clipper: FairClipper) -> None:
        """Put these two where training ended; the optimizer keeps its learning rate.

        Raises:
            ValueError: If the clipper is of another kind than the one before.
        """
        if not self.optimizer:
            return
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(copy.deepcopy(self.optimizer))  # which it would write to
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        trace = self.clipper["trace"].state_dict()
        clipper.load_state_dict(copy.deepcopy({**self.clipper, "trace": trace}))


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_cpu(part) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_on_cpu(part) for part in state)
    return state
