"""Scale what each row causes before the backward pass. Shapes: B rows, T tokens, K groups."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import Array, to_device
from fairclip.gradients._autograd import after_backward
from fairclip.gradients._call import Call
from fairclip.gradients._measure import Measurement
from fairclip.gradients._rows import BatchRows, count_codes

if TYPE_CHECKING:
    from fairclip.gradients._engine import GradientEngine


class _Weigh(torch.autograd.Function):
    """Forward: the losses themselves. Backward: their gradient times the weights."""

    @staticmethod
    def forward(
        ctx: Any, losses: Tensor, weights: Tensor, on_backward: Callable[[], None]
    ) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.on_backward = on_backward
        return losses.view_as(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.on_backward()
        (grad,), (weights,) = grads, ctx.saved_tensors
        return grad * weights, None, None  # autograd gives it the dtype of the losses again


@dataclass(slots=True, eq=False)
class _Batch:
    """One weighed batch, and in a measured step what its forward pass left behind."""

    counts: np.ndarray  # as in `WeighedStep`
    rows: BatchRows | None = None
    calls: list[Call] = field(default_factory=list)
    measurement: Measurement | None = None
    is_reached: bool = False

    def release(self) -> None:
        for call in self.calls:
            call.release()


class WeighedStep:
    """The weighed batches of one step, from the first `weigh` on.

    It is measured where the engine was armed before the forward pass. A batch without a backward
    pass leaves nothing.

    Attributes:
        is_measured: Whether group gradients are measured.
        counts: Rows that had a backward pass, of each group and last of no known group, (K + 1,).
    """

    def __init__(self, engine: "GradientEngine", n_groups: int) -> None:
        self.is_measured = engine.is_armed
        self.counts = np.zeros(n_groups + 1, dtype=np.int64)
        self._engine = engine
        self._batches: list[_Batch] = []  # to be measured
        self._has_begun = False
        self._is_reached = False

    def weigh(self, losses: Tensor, codes: Tensor, table: Array) -> Tensor:
        """Return the losses, whose gradient is multiplied by the factor of each row's group.

        Args:
            losses: One a row, (B,), or a token, (B, T).
            codes: Like the losses, int64 on the CPU.
            table: (K + 1,) factors of the rows of each group, and last of no known group.
        """
        batch = _Batch(count_codes(codes.numpy(), len(table) - 1))
        if self._has_begun:
            self._engine.check_not_stepped()
        is_next = not self._has_begun
        if self.is_measured:
            self._engine.check_dims(codes)
            batch.calls = self._engine.take()
            is_next |= self._close()
        if is_next:
            self._engine.begin(measured=self.is_measured)
            self._has_begun = True
        if self.is_measured:
            batch.rows = BatchRows.from_codes(codes, len(table) - 1)
            batch.measurement = self._engine.offer(batch.calls, batch.rows)
            self._batches.append(batch)
        # A code of -1 is the last place.
        if isinstance(table, np.ndarray):
            weights = to_device(torch.from_numpy(table.take(codes.numpy())), losses.device)
        else:
            weights = to_device(table[to_device(codes, table.device)], losses.device)
        reach = partial(self._reach, batch)
        weighed: Tensor = _Weigh.apply(losses, weights, reach)  # type: ignore[no-untyped-call]
        return weighed

    def check_reached(self) -> None:
        """Raise where no batch had a backward pass."""
        if not self._is_reached:
            raise RuntimeError(
                "No backward pass came through what `weigh` returned: call `backward()` on its "
                "mean before `clip_grad_()`."
            )

    def finish(self) -> None:
        """Measure what is not measured yet, if it is to be.

        Raises:
            RuntimeError: If several batches had their backward passes at once, or ``.grad`` is not
                as they left it.
        """
        if self.is_measured:
            self._engine.check_unchanged()
            self._close()

    def abandon(self) -> None:
        """End the step; a backward pass that comes later is no part of it."""
        self.is_measured = False
        for batch in self._batches:
            batch.release()
        self._batches = []

    def _reach(self, batch: _Batch) -> None:
        self._is_reached = True
        if not batch.is_reached:
            batch.is_reached = True
            self.counts = self.counts + batch.counts  # not in place: a record may hold them
        if self.is_measured:
            # `.grad` is final when the backward pass that is under way has ended.
            after_backward(self._engine.mark)

    def _close(self) -> bool:
        """Measure the batch that had its backward pass; say whether there was one."""
        reached = [batch for batch in self._batches if batch.is_reached]
        if len(reached) > 1:
            raise RuntimeError(
                "Several weighed batches share a backward pass, or had theirs after the last of "
                "them was weighed. Run each one's before the next forward pass, or put their rows "
                "into one batch."
            )
        for batch in reached:
            self._batches.remove(batch)
            if self._engine.unchanged() and batch.rows is not None:
                self._engine.end(batch.calls, batch.rows, batch.measurement)
            else:  # thrown away since, by `zero_grad`
                batch.release()
                self.counts = self.counts - batch.counts
        return bool(reached)
