"""The shape that all clipping modes share, and what they report."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Parameters = Tensor | Iterable[Tensor | tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What one mode did in one step. Every tensor is a scalar on the gradients' device.

    Attributes:
        name: The mode, such as "Norm".
        norm_before: The norm of the whole gradient before, in the mode's own ``norm_type``.
        norm_after: The same afterwards.
        threshold: What was allowed, NaN where that is not one number.
        share_clipped: Share in [0, 1] of the mode's scopes that were changed; of components for
            :class:`Value`.
        stages: The records of a :class:`Chain`'s modes, in order.
    """

    name: str
    norm_before: Tensor
    norm_after: Tensor
    threshold: Tensor
    share_clipped: Tensor
    stages: tuple["ClipRecord", ...] = ()


class ModeState(Protocol):
    """What an adaptive mode remembers between steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as numbers, tensors, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take over what ``state_dict`` returned."""


class Mode(ABC):
    """An absolute limit on gradients: subclass it as a frozen dataclass.

    A mode holds settings only. What it has to remember is in the object that ``init`` returns,
    which the caller keeps and passes to each call.
    """

    __slots__ = ()

    def init(self, parameters: Parameters) -> ModeState | None:  # noqa: ARG002  others need them
        """Return a new state for these parameters; None for a mode that remembers nothing."""
        return None

    @abstractmethod
    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        """Change every ``.grad`` in place, and report."""
