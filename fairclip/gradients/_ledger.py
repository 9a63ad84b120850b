"""Know what `.grad` holds when a window opens."""

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Mark = tuple["weakref.ref[Tensor]", int, int]


class GradLedger:
    """Tells apart what a window finds in ``.grad``.

    Nothing or zeros: a new step. What the last window of this step left, untouched: accumulation.
    What `settle` left, while no parameter has changed since: the next micro-batch, whose gradient
    is measured on its own and added afterwards. Anything else: an error.

    Args:
        parameters: The trainable ones, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._marks: dict[str, Mark] = {}
        self._earlier: dict[str, Tensor] = {}  # of micro-batches that are done

    def open(self, *, pending: bool) -> bool:
        """Prepare for a backward pass; say whether it adds to the ``pending`` windows.

        Raises:
            RuntimeError: If ``.grad`` holds something else.
        """
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if self._marks and self._mark() == self._marks:
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
        return False

    def close(self) -> None:
        """Remember what a window left."""
        self._marks = self._mark()

    def settle(self) -> None:
        """Add what earlier micro-batches left, and remember the sum: the gradient is final."""
        for name, earlier in self._earlier.items():
            parameter = self._parameters[name]
            parameter.grad = earlier if parameter.grad is None else parameter.grad.add_(earlier)
        self._earlier = {}
        self._marks = self._mark()

    def abandon(self) -> None:
        """Put back what earlier micro-batches left; the next window must find zeros."""
        self.settle()
        self._marks = {}

    def _mark(self) -> dict[str, Mark]:
        return {
            name: (weakref.ref(p.grad), p.grad._version, p._version)
            for name, p in self._parameters.items()
            if p.grad is not None
        }
