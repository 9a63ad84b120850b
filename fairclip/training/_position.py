"""Where an estimator's training ended, so that a later call can go on from there."""

import copy
from dataclasses import dataclass, field, replace
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
        structure: The parameters of the estimator that may not change.
        optimizer: The optimizer's state; empty at the start.
        clipper: The clipper's state; empty at the start.
    """

    seed: int
    encoder: GroupEncoder | None
    structure: dict[str, Any]
    optimizer: dict[str, Any] = field(default_factory=dict)
    clipper: dict[str, Any] = field(default_factory=dict)

    def after(self, optimizer: Optimizer, clipper: FairClipper) -> Self:
        """Return where these two are now."""
        state = {**clipper.state_dict(), "trace": clipper.trace}  # one trace, not a copy each call
        optimizer_state = _on_cpu(optimizer.state_dict())
        return replace(self, optimizer=optimizer_state, clipper=_on_cpu(state))

    def check(self, structure: dict[str, Any]) -> None:
        """Raise where the estimator has other parameters by now.

        Raises:
            ValueError: If one differs, with its name.
        """
        for name, value in structure.items():
            if value != self.structure[name]:
                raise ValueError(
                    f"`{name}` was changed since the call before, and training goes on with what "
                    "that made: set it back, or call `fit` with warm_start=False."
                )

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
