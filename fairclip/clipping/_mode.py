"""The shape that all clipping modes share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from fairclip.clipping._attach import ClipAfter, ClipBefore, Handle, StepLog
from fairclip.clipping._record import ClipRecord

Parameters = Tensor | Iterable[Tensor | tuple[str, Tensor]]


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

    def scaled(self, factor: float) -> "Mode":
        """Return this mode with its threshold times ``factor``, for :class:`Scheduled`."""
        raise TypeError(
            f"{type(self).__name__} has no threshold to schedule, got the factor {factor}."
        )

    def attach(self, optimizer: torch.optim.Optimizer, *, trace: StepLog | None = None) -> Handle:
        """Clip before every ``optimizer.step()``, until the handle that is returned is removed.

        With a closure (L-BFGS; Lightning's automatic optimization) the gradient is clipped after
        each evaluation of it, once. A ``GradScaler`` has unscaled by then; where a fused optimizer
        would unscale in its kernel, that is done here instead. Where a gradient is inf or NaN, a
        ``GradScaler`` does not call the step of an optimizer that is not fused: nothing is clipped
        then, and ``trace`` has no such step. The wrappers of Lightning and Accelerate are looked
        through.

        Args:
            optimizer: Whose gradients are clipped. A mode that needs names finds them in an
                optimizer that was made from ``model.named_parameters()``.
            trace: A `fairclip.Trace` to keep the record of every step.

        Raises:
            ValueError: If the mode needs names, and the optimizer has none or not these; or if
                ``trace`` keeps the steps of another optimizer.
            RuntimeError: If the optimizer has a mode attached already: several make a
                :class:`Chain`.

        Example:
            >>> import torch
            >>> from fairclip.clipping import Norm
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> handle = Norm(max_norm=1.0).attach(optimizer)
            >>> (100 * model(torch.ones(2))).sum().backward()
            >>> optimizer.step()
            >>> handle.record.norm_after
            tensor(1.)
            >>> handle.remove()
        """
        return ClipBefore(self, optimizer, trace)


class OptimizerMode(ABC):
    """A limit on what an optimizer does with gradients: it works by `attach` only."""

    __slots__ = ()

    def check(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027  others need none
        """Raise, before the step, where the optimizer does nothing that could be limited."""

    def before(self, parameters: list[Tensor]) -> Any:  # noqa: ARG002  others need them
        """Return what `after` has to know about the parameters as they were before the step."""
        return None

    @abstractmethod
    def after(
        self, optimizer: torch.optim.Optimizer, parameters: list[Tensor], kept: Any
    ) -> ClipRecord:
        """Limit what the step did, in place, and report."""

    def attach(self, optimizer: torch.optim.Optimizer, *, trace: StepLog | None = None) -> Handle:
        """Act at every ``optimizer.step()``, until the handle that is returned is removed.

        Args:
            optimizer: The optimizer; the wrappers of Lightning and Accelerate are looked through.
            trace: A `fairclip.Trace` to add the record to the step that the gradient's record
                began (by a mode that is attached with the same trace, or by a `FairClipper`).

        Raises:
            RuntimeError: If the optimizer has a mode of this kind attached already.
            TypeError: At the first step, before it, if a parameter is complex.
            ValueError: After the step, whose result stays, if ``trace`` has groups and no step was
                begun: call ``clip_grad_`` of the `FairClipper` before it.
        """
        return ClipAfter(self, optimizer, trace)

    def __call__(self, *_: object) -> NoReturn:
        """Raise: a gradient is not what this limits."""
        name = type(self).__name__
        raise TypeError(
            f"{name} limits what the optimizer does: use `{name}(...).attach(optimizer)`."
        )
