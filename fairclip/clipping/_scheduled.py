"""A mode whose threshold is a function of the step."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from fairclip.clipping._mode import Mode, ModeState, Parameters
from fairclip.clipping._record import ClipRecord


@dataclass(frozen=True, slots=True)
class Scheduled(Mode):
    r"""Multiply a mode's threshold by a factor that depends on the step.

    .. math:: c_t = c \cdot f(t), \qquad t = 0, 1, 2, \ldots

    A step is a call. The count is in the state, so that a resumed run goes on where it was.

    Args:
        mode: The mode :math:`c` is of: :class:`Norm`, :class:`Value`, :class:`Normalize`,
            :class:`Smoothness`, or a :class:`Chain` of them, which is scaled as a whole. One that
            remembers something keeps its own state.
        schedule: :math:`f`: :class:`Constant`, :class:`Linear`, :class:`Cosine`, or any function of
            the step, an int, that returns a positive number. Pickling needs one that can be
            pickled, so no lambda.

    Returns:
        The mode's :class:`ClipRecord`, with the threshold of the step.

    Raises:
        TypeError: If ``mode`` has no threshold, or ``schedule`` cannot be called.
        ValueError: If the schedule returns what is not a positive number, or the state is missing.

    Source:
        The convention of ``torch.optim.lr_scheduler.LambdaLR``: a factor by step, from 0 on.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Linear, Norm, Scheduled
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> mode = Scheduled(Norm(max_norm=2.0), Linear(0.5, 1.0, total_iters=2))
        >>> handle = mode.attach(optimizer)
        >>> for _ in range(3):
        ...     weight.grad = torch.tensor([10.0])
        ...     optimizer.step()
        ...     print(handle.record.threshold)
        tensor(1.)
        tensor(1.5000)
        tensor(2.)
    """

    mode: Mode
    schedule: Callable[[int], float]

    def __post_init__(self) -> None:
        if not isinstance(self.mode, Mode):
            raise TypeError(f"`mode` must be a clipping mode such as Norm(1.0), got {self.mode!r}.")
        if not callable(self.schedule):
            raise TypeError(f"`schedule` must be a function of the step, got {self.schedule!r}.")
        self.mode.scaled(1.0)  # raises where there is no threshold

    def scaled(self, factor: float) -> "Scheduled":
        """Return this schedule of the mode with its threshold times ``factor``."""
        return Scheduled(self.mode.scaled(factor), self.schedule)

    def init(self, parameters: Parameters) -> ModeState:
        """Return the state before step 0."""
        return _ScheduledState(0, self.mode.init(parameters))

    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        """Apply the mode as it is in this step to every ``.grad`` in place."""
        if not isinstance(state, _ScheduledState):
            raise ValueError(
                "Scheduled counts its steps: pass as `state` what its `init(parameters)` returned, "
                "or attach it to an optimizer."
            )
        factor = self.schedule(state.step)
        if not (isinstance(factor, Real) and factor > 0):
            raise ValueError(
                f"`schedule` must return a positive number, got {factor!r} in step {state.step}."
            )
        record = self.mode.scaled(float(factor))(parameters, state.inner)
        state.step += 1
        return record


@dataclass(slots=True)
class _ScheduledState:
    step: int
    inner: ModeState | None

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "mode": self.inner and self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        if state.keys() != {"step", "mode"} or (state["mode"] is None) != (self.inner is None):
            raise ValueError(
                "The state to load is not of this Scheduled mode: resume with the mode that it was "
                "saved with."
            )
        if self.inner is not None:
            self.inner.load_state_dict(state["mode"])
        self.step = state["step"]
