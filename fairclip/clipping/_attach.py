"""Modes at work on an optimizer: its step hooks call them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip._optimizers import torch_optimizer
from fairclip.clipping._gradients import complex_error
from fairclip.clipping._record import ClipRecord

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from fairclip.clipping._mode import Mode, OptimizerMode


class StepLog(Protocol):
    """What keeps the records of every step, as `fairclip.Trace` does."""

    def follow(self, optimizer: Optimizer, /) -> None:
        """Take on the steps of this optimizer, or raise."""

    def append(self, record: ClipRecord, /) -> None:
        """Begin a step with what was done to the gradient."""

    def amend(self, record: ClipRecord, /) -> None:
        """Add what was done in the optimizer to the step that was begun last."""


class Handle:
    """A mode that is attached to an optimizer; also a context manager that removes it.

    It stays through ``add_param_group``, where a mode that remembers starts anew for scopes it has
    not met, and through the optimizer's ``load_state_dict``. A copy or a pickle of the
    optimizer has no hooks, in torch, and so no mode: attach one anew.

    Attributes:
        record: What the mode did in the last step, or in its closure's last evaluation; None before
            the first.
    """

    record: ClipRecord | None

    def __init__(
        self, mode: "Mode | OptimizerMode", optimizer: Optimizer, trace: StepLog | None
    ) -> None:
        self.record = None
        self._mode = mode
        self._optimizer = torch_optimizer(optimizer)
        self._trace = trace
        self._state: Any = None
        self._hooks: list[RemovableHandle] = []

    def _follow(self) -> None:
        if self._trace is not None:
            self._trace.follow(self._optimizer)

    def remove(self) -> None:
        """Take the mode off the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return what the mode remembers between steps."""
        return {} if self._state is None else self._state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: If it is of another mode; nothing is loaded then.
        """
        if (self._state is None) != (not state):
            raise ValueError(
                f"The state does not fit {self._mode}: it is of another mode. Attach the one it "
                "was saved with."
            )
        if self._state is not None:
            self._state.load_state_dict(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class ClipBefore(Handle):
    """Clip the gradient before the step, or after each evaluation of the step's closure."""

    def __init__(self, mode: "Mode", optimizer: Optimizer, trace: StepLog | None) -> None:
        super().__init__(mode, optimizer, trace)
        optimizer = self._optimizer
        for hook in optimizer._optimizer_step_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, ClipBefore):
                raise RuntimeError(
                    f"{other._mode} is attached to this optimizer and would clip again what {mode} "
                    "has clipped: `remove` it, or attach both as one `Chain`."
                )
        self._clip = mode
        self._logged = False
        self._state = mode.init(_parameters(optimizer))
        self._follow()
        self._hooks = [optimizer.register_step_pre_hook(self._before_step)]

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._logged = False
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            self._act(optimizer)
            return None
        # The closure makes the gradients: what is there before it runs is of no use.
        wrapped = self._wrap(optimizer, closure)
        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, kwargs | {"closure": wrapped}

    def _wrap(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evaluate() -> Any:
            loss = closure()
            self._act(optimizer)
            return loss

        return evaluate

    @torch.no_grad()
    def _act(self, optimizer: Optimizer) -> None:
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # set by a GradScaler for a fused step that unscales in its kernel
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            if found := [p.grad for p in parameters if p.grad is not None]:
                torch._foreach_mul_(found, 1 / scale)
            optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.record = self._clip(_parameters(optimizer), self._state)
        if self._trace is not None and not self._logged:  # a step may evaluate its closure often
            self._trace.append(self.record)
        self._logged = True


class ClipAfter(Handle):
    """Act on the optimizer's state or on the weights after the step."""

    def __init__(self, mode: "OptimizerMode", optimizer: Optimizer, trace: StepLog | None) -> None:
        super().__init__(mode, optimizer, trace)
        optimizer = self._optimizer
        for hook in optimizer._optimizer_step_post_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, ClipAfter) and type(other._mode) is type(mode):
                raise RuntimeError(
                    f"{other._mode} is attached to this optimizer: `remove` it first."
                )
        self._limit = mode
        self._kept: Any = None
        self._follow()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, *_: object) -> None:
        tensors = _tensors(optimizer)
        self._limit.check(optimizer)
        self._kept = self._limit.before(tensors)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        self.record = self._limit.after(optimizer, _tensors(optimizer), self._kept)
        self._kept = None
        if self._trace is not None:
            self._trace.amend(self.record)


def _parameters(optimizer: Optimizer) -> list[Any]:
    """Return the parameters, with their names if the optimizer was made from named ones."""
    parameters: list[Any] = []
    for group in optimizer.param_groups:
        names = group.get("param_names")
        parameters += group["params"] if names is None else zip(names, group["params"], strict=True)
    return parameters


def _tensors(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters that are trained."""
    tensors = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    for place, tensor in enumerate(tensors):
        if tensor.is_complex():
            raise complex_error(labels(optimizer, tensors)[place])
    return tensors


def labels(optimizer: Optimizer, parameters: list[Tensor]) -> tuple[str, ...]:
    """Return the names of some of an optimizer's parameters, numbers where there are none."""
    names = {id(p[1]): p[0] for p in _parameters(optimizer) if isinstance(p, tuple)}
    return tuple(names.get(id(p), str(place)) for place, p in enumerate(parameters))
