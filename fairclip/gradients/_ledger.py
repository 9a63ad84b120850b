"""Know what `.grad` holds when a window opens, and that nobody changed it since."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# Not each optimizer leaves a trace in the parameters that it changes.
_n_steps = 0  # of all optimizers
_last_steps: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()


def _count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    global _n_steps
    _n_steps += 1
    _last_steps[optimizer] = _n_steps


register_optimizer_step_post_hook(_count_step)


class GradLedger:
    """Tells apart what a window finds in ``.grad``.

    Nothing or zeros: a new step. What the last window of this step left, untouched: accumulation.
    What `settle` left, with no optimizer's step since: the next micro-batch, whose gradient is
    measured on its own and added afterwards. Anything else: an error.

    Args:
        parameters: The trainable ones, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._marks: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        self._steps_then = 0
        self._versions: list[int] = []  # of the parameters
        self._steps_at_open = 0
        self._earlier: dict[str, Tensor] = {}  # of micro-batches that are done
        self._size: float | None = None

    def open(self, *, pending: bool) -> bool:
        """Prepare for a backward pass; say whether it adds to the ``pending`` windows.

        Raises:
            RuntimeError: If ``.grad`` holds something else.
        """
        self._steps_at_open = _n_steps
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if grads and self.unchanged() and (pending or not self._has_changed_parameters()):
            if not pending:
                self._earlier = grads
                for name in grads:
                    self._parameters[name].grad = None
            return pending
        if grads and bool(torch.stack([g.count_nonzero().cpu() for g in grads.values()]).any()):
            raise RuntimeError(
                "`.grad` is not zero, so it would be taken for a part of this batch. Call "
                "`optimizer.zero_grad()` before the next step, and change no gradient between two "
                "backward passes."
            )
        self._earlier, self._size = {}, None
        return False

    def close(self) -> None:
        """Remember what a window left."""
        self._marks = {
            name: (weakref.ref(p.grad), p.grad._version)
            for name, p in self._parameters.items()
            if p.grad is not None
        }
        self._steps_then, self._versions = _n_steps, self._versions_now()
        if self._size is not None:
            self._size = self._size_now()

    def remember_size(self) -> None:
        """Remember the gradient's size until it is settled: a GradScaler leaves no other trace.

        This waits for the device.
        """
        self._size = self._size_now()

    def forget_size(self) -> None:
        """Let a GradScaler change the gradient."""
        self._size = None

    def has_stepped(self) -> bool:
        """Say whether an optimizer of these parameters made a step since `open`."""
        if self._steps_at_open == _n_steps:
            return False
        since = [o for o, step in _last_steps.items() if step > self._steps_at_open]
        changed = {id(p) for o in since for group in o.param_groups for p in group["params"]}
        return any(id(p) in changed for p in self._parameters.values())

    def unchanged(self) -> bool:
        """Say whether ``.grad`` is as it was at the last `close` or `settle`."""
        n_grads = 0
        for name, parameter in self._parameters.items():
            if (grad := parameter.grad) is not None:
                mark = self._marks.get(name)
                if mark is None or mark[0]() is not grad or mark[1] != grad._version:
                    return False
                n_grads += 1
        if n_grads != len(self._marks):
            return False
        return self._size is None or self._size == self._size_now()

    def _has_changed_parameters(self) -> bool:
        return self._steps_then != _n_steps or self._versions != self._versions_now()

    def _versions_now(self) -> list[int]:
        return [p._version for p in self._parameters.values()]

    def _size_now(self) -> float:
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        return float(torch.stack([g.detach().abs().sum().double().cpu() for g in grads]).nansum())

    def settle(self) -> None:
        """Add what earlier micro-batches left, and remember the sum: the gradient is final."""
        for name, earlier in self._earlier.items():
            parameter = self._parameters[name]
            parameter.grad = earlier if parameter.grad is None else parameter.grad.add_(earlier)
        self._earlier, self._size = {}, None
        self.close()

    def abandon(self) -> None:
        """Put back what earlier micro-batches left; the next window must find zeros."""
        self.settle()
        self._marks = {}
