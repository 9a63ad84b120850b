"""Know what `.grad` holds when a window opens, and that nobody changed it since."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_n_steps = 0  # of all optimizers: not each of them leaves a trace in the parameters it changes


def _count_step(*_: Any) -> None:
    global _n_steps
    _n_steps += 1


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
        self._earlier: dict[str, Tensor] = {}  # of micro-batches that are done
        self._weight: float | None = None

    def open(self, *, pending: bool) -> bool:
        """Prepare for a backward pass; say whether it adds to the ``pending`` windows.

        Raises:
            RuntimeError: If ``.grad`` holds something else.
        """
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if grads and self.unchanged() and (pending or self._steps_then == _n_steps):
            if not pending:
                self._earlier = grads
                for name in grads:
                    self._parameters[name].grad = None
            return pending
        if grads and bool(torch.stack([g.count_nonzero().cpu() for g in grads.values()]).any()):
            raise RuntimeError(
                "`.grad` is not zero, so it would be taken for a part of this batch. Call "
                "`optimizer.zero_grad()` before `watch`, and change no gradient between windows."
            )
        self._earlier, self._weight = {}, None
        return False

    def close(self) -> None:
        """Remember what a window left."""
        self._marks = {
            name: (weakref.ref(p.grad), p.grad._version)
            for name, p in self._parameters.items()
            if p.grad is not None
        }
        self._steps_then = _n_steps
        if self._weight is not None:
            self._weight = self._sum()

    def weigh(self) -> None:
        """Remember the gradient's size until it is settled: a GradScaler leaves no other trace.

        This waits for the device.
        """
        self._weight = self._sum()

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
        return self._weight is None or self._weight == self._sum()

    def _sum(self) -> float:
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        return float(torch.stack([g.detach().abs().sum().double().cpu() for g in grads]).nansum())

    def settle(self) -> None:
        """Add what earlier micro-batches left, and remember the sum: the gradient is final."""
        for name, earlier in self._earlier.items():
            parameter = self._parameters[name]
            parameter.grad = earlier if parameter.grad is None else parameter.grad.add_(earlier)
        self._earlier, self._weight = {}, None
        self.close()

    def abandon(self) -> None:
        """Put back what earlier micro-batches left; the next window must find zeros."""
        self.settle()
        self._marks = {}
