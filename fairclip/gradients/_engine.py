"""From a user's own forward and backward pass to the gradient of every group."""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from fairclip.gradients._by_group import sums_by_group
from fairclip.gradients._call import Call
from fairclip.gradients._checks import check_first_order, check_outputs
from fairclip.gradients._eager import Eager, unwrapped
from fairclip.gradients._group_gradients import GroupGradients
from fairclip.gradients._learner import Learner
from fairclip.gradients._ledger import GradLedger
from fairclip.gradients._measure import Measurement
from fairclip.gradients._owners import Structure, find_owners, trainable_modules
from fairclip.gradients._pending import Pending
from fairclip.gradients._recorder import CallRecorder
from fairclip.gradients._replay import without_autocast
from fairclip.gradients._rows import BatchRows, check_losses
from fairclip.gradients._sums import Sums
from fairclip.gradients._supported import check_single_process, trainable_parameters


class GradientEngine:
    """Measures what each group's rows cause in the gradient of a model.

    Forward hooks keep the input of every module that holds parameters, hooks on the autograd graph
    the gradient of its output; both have rows, and the rows of a group give the group's gradient
    (a rule for each layer type, or a re-run of the module). The first window is where the engine
    learns which dimension of which tensor holds the rows, and where it checks itself.

    Args:
        model: The user's; its own hooks, mode and random numbers stay as they are.
        n_groups: K.
        check: Compare the sum over all groups with ``.grad``: in steps 1, 2, 4, 8, ... ("first"),
            always, or never. Always also finds the rows anew in each step.
        batch_dim: The dimension of the model's inputs that holds the rows; None finds out.

    Attributes:
        is_armed: Whether forward passes are recorded for `WeighedStep`.
    """

    def __init__(
        self,
        model: nn.Module,
        n_groups: int,
        *,
        check: Literal["first"] | bool = "first",
        batch_dim: int | None = None,
    ) -> None:
        self._eager = Eager(model)
        model = unwrapped(model)
        self._parameters = trainable_parameters(model)
        self._structure = Structure(model)
        self._n_groups = n_groups
        modules = trainable_modules(model)
        self._recorder = CallRecorder(modules)
        self._recorder.find_writers()
        self._learner = Learner(
            model,
            self._recorder,
            find_owners(modules, self._parameters),
            self._parameters,
            check=check,
            batch_dim=batch_dim,
        )
        self._ledger = GradLedger(self._parameters)
        self._place_then = self._place()
        self._watching = False
        self._removed = False
        self.is_armed = False
        self._pending: Pending | None = None
        self._measurement: Measurement | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable ones by name."""
        return self._parameters

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(iter(self._parameters.values())).device

    def watch(self, codes: Tensor) -> AbstractContextManager[None]:
        """Measure the two passes inside; ``codes`` (B,) or (B, T) int64 on the CPU."""
        return _Window(self, codes)

    def open(self, codes: Tensor) -> BatchRows:
        """Begin a window."""
        self._check_not_compiled()
        self.check_dims(codes)
        rows = self._open(codes)
        self._measurement = self._prepare(rows)
        self._recorder.put()
        self._recorder.start(self._measurement)
        self._watching = True
        return rows

    def close(self, rows: BatchRows, *, failed: bool) -> None:
        """End a window; one that failed leaves nothing."""
        self._end(self._recorder.stop(), rows, failed=failed)

    def arm(self) -> None:
        """Record the forward passes from here on, before it is known whose rows they hold."""
        if not self._removed:
            self.is_armed = True
            self._eager.start()
            self._recorder.put()
            self._recorder.start(weakly=True)

    def disarm(self) -> None:
        """Take everything off the model, until `arm` or the next window."""
        self.is_armed = False
        self._recorder.stop()
        self._recorder.remove()
        self._eager.stop()

    def take(self) -> list[Call]:
        """Return the calls since `arm`, or since they were taken last.

        Raises:
            RuntimeError: If there are none.
        """
        calls = self._recorder.living()
        if not calls:
            raise RuntimeError(
                "The losses depend on no forward pass of the model that was seen since the last "
                "`clip_grad_()`. Of one forward pass weigh the sum of its losses. Compile a model "
                "before FairClipper is made, and give it what `torch.compile` returned: in a "
                "compiled function a model is not seen."
            )
        return calls

    def begin(self, *, measured: bool = True) -> None:
        """Begin a step, or the next window of one.

        Raises:
            RuntimeError: If ``.grad`` holds what no window left, or the model has changed.
        """
        check_single_process()
        if self._watching:
            raise RuntimeError("`watch` is open already; windows cannot be nested.")
        if measured and self._structure.has_changed():
            raise RuntimeError(
                "The model has parameters that were added or unfrozen after the clipper was made: "
                "call `clipper.remove()` and make a new one."
            )
        if self._removed:
            raise RuntimeError("The clipper's hooks were removed: make a new clipper.")
        if (place := self._place()) != self._place_then:
            self._place_then = place
            self._recorder.find_writers()
        if self._pending is not None:
            self.check_not_stepped()
        if not self._ledger.open(pending=self._pending is not None):
            self._pending = None

    def offer(self, calls: list[Call], rows: BatchRows) -> Measurement | None:
        """Prepare to measure taken calls of these rows; what it returns is for `end`."""
        measurement = self._prepare(rows)
        for call in calls:
            call.receiver = measurement
        return measurement

    def check_dims(self, codes: Tensor) -> None:
        """Raise where codes by row and by token are mixed."""
        n_dims = self._learner.n_code_dims
        if codes.ndim != (n_dims or codes.ndim):
            raise ValueError(
                f"`groups` is {tuple(codes.shape)}, but was of {n_dims} dimensions in "
                "the windows before: make a new clipper to change from rows to tokens."
            )

    def mark(self) -> None:
        """Say that a backward pass has ended, so that later changes of ``.grad`` are noticed."""
        if self._learner.is_unchecked:
            self._ledger.remember_size()
        self._ledger.close()

    def end(self, calls: list[Call], rows: BatchRows, measurement: Measurement | None) -> None:
        """Measure taken calls after their backward pass; recording goes on."""
        self._recorder.stop()
        self._measurement = measurement
        self._end(calls, rows, failed=False)
        self._recorder.start(weakly=True)

    def _end(self, calls: list[Call], rows: BatchRows, *, failed: bool) -> None:
        done = False
        try:
            if not failed:
                with without_autocast(self._place_then[0]):
                    self._close(calls, rows)
                done = True
        finally:
            self._watching = False
            self._measurement = None
            if not done:
                self._pending = None
                self._ledger.abandon()
            for call in calls:
                call.release()

    def backward(self, losses: Tensor, codes: Tensor) -> None:
        """Run one backward pass a group over one forward pass: exact for any model, and slow."""
        check_losses(losses, codes)
        self._check_not_compiled()
        rows = self._open(codes)
        sums = sums_by_group(losses, rows, self._parameters)
        losses.mean().backward()
        self._add(sums, rows, rest=self._n_groups)

    @property
    def is_in_step(self) -> bool:
        """Whether a window is open, or one has not been collected."""
        return self._watching or self._pending is not None

    def check_idle(self) -> None:
        """Raise in the middle of a step."""
        if self.is_in_step:
            raise RuntimeError("A step is under way: call `clip_grad_()` first.")

    def check_finished(self, caller: str = "clip_grad_") -> None:
        """Raise where there is no window to end the step with, or ``.grad`` is not its own."""
        if self._watching:
            raise RuntimeError(f"Leave `watch` before `{caller}()`.")
        if self._pending is None:
            raise RuntimeError(
                f"`{caller}()` needs a forward and backward pass inside `watch(groups)` first, or "
                "one of what `weigh(losses, groups)` returns."
            )
        self.check_not_stepped()
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise where ``.grad`` is not as a window left it."""
        if not self._ledger.unchanged():
            raise RuntimeError(
                "`.grad` was changed between the backward pass and `clip_grad_()`. Call it before "
                "`zero_grad()` and instead of torch's clipping, and give it as `clip=`. With a "
                "GradScaler pass `clip_grad_(scaler, optimizer)`."
            )

    def check_not_stepped(self) -> None:
        """Raise where an optimizer has changed the model since the step was begun."""
        if self._ledger.has_stepped():
            self._pending = None
            raise RuntimeError(
                "The optimizer stepped before `clip_grad_()`, so nothing was capped or clipped: "
                "call it after the backward pass and before `optimizer.step()`."
            )

    def allow_unscaling(self) -> None:
        """Take it for no change of ``.grad`` that a GradScaler unscaled it."""
        self._ledger.forget_size()

    def unchanged(self) -> bool:
        """Say whether ``.grad`` is as the last window left it."""
        return self._ledger.unchanged()

    def parts(self, caller: str) -> dict[int, dict[str, Tensor]]:
        """Return copies of the contributions so far, by part and parameter; the step goes on."""
        self.check_finished(caller)
        assert self._pending is not None
        with torch.no_grad(), without_autocast(self._place_then[0]):
            return self._pending.parts(self._parameters)

    def collect(self, *, by_layer: bool = False, scale: Tensor | None = None) -> GroupGradients:
        """End the step: return the contributions of all windows since the last one.

        Args:
            by_layer: Tell layers apart.
            scale: What ``.grad`` was multiplied by since the window, as a loss scaler does.
        """
        pending, self._pending = self._pending, None
        assert pending is not None
        self._learner.end_step()
        return pending.gradients(self._parameters, by_layer=by_layer, scale=scale)

    def settle(self) -> None:
        """Say that ``.grad`` is final for this step."""
        self._ledger.settle()

    def remove(self) -> None:
        """Take the hooks off the model."""
        self.disarm()
        self._removed = True

    def _check_not_compiled(self) -> None:
        """Raise where hooks see nothing, and a graph allows for one backward pass only."""
        if self._eager:
            raise NotImplementedError(
                "`watch` and `backward` do not work with a compiled model. Use "
                "`clipper.weigh(losses, groups)`, or pass the model as it was before "
                "`torch.compile`."
            )

    def _open(self, codes: Tensor) -> BatchRows:
        rows = BatchRows.from_codes(codes, self._n_groups)
        self.begin()
        return rows

    def _place(self) -> tuple[torch.device, torch.dtype]:
        first = next(iter(self._parameters.values()))
        return first.device, first.dtype

    def _close(self, calls: list[Call], rows: BatchRows) -> None:
        names = [name for name, p in self._parameters.items() if p.grad is not None]
        reached = [call for call in calls if call.is_reached]
        check_outputs(calls)
        if not reached:
            raise RuntimeError(
                "No forward pass of the model was seen inside `watch`: put it inside, with the "
                "backward pass. In a compiled function it is not seen: compile the model instead, "
                "and use `clipper.weigh(losses, groups)`."
                if names
                else "No backward pass through the clipper's model ran inside `watch`: call "
                "`loss.backward()` before it ends."
            )
        check_first_order(reached)
        learner = self._learner
        # No hook sees a backward pass inside of torch.func: a penalty that comes later hides there.
        seen = [call for call in calls if call.is_reached or call.is_transformed]
        if not learner.knows(seen, rows, names):
            if not learner.is_learning:
                learner.start_over(seen)
                self._leave_unmeasured(rows)
                return
            learner.learn(calls, reached, rows, names)
        if self._must_check():
            learner.check(rows.slots(rows.present(), self._place_then[0]), reached, names)
            self._ledger.remember_size()
        measurement = self._measurement or self._measure(rows)
        sums = measurement.finish(reached, {name: self._parameters[name] for name in names})
        self._add(sums, rows, self._rest(rows))

    def _prepare(self, rows: BatchRows) -> Measurement | None:
        """Return what uses gradients as they come, None where a window teaches or is checked."""
        if self._learner.is_learning or self._must_check():
            return None
        return self._measure(rows)

    def _measure(self, rows: BatchRows) -> Measurement:
        rest = self._rest(rows)
        parts = [part for part in rows.present() if part != rest]
        return self._learner.measurement(rows.slots(parts, self._place_then[0]))

    def _must_check(self) -> bool:
        return self._learner.must_check(is_first_window=self._pending is None)

    def _leave_unmeasured(self, rows: BatchRows) -> None:
        if self._pending is None:
            self._pending = Pending(self._n_groups, self._n_groups)
        self._pending.count_as_unknown(rows.n_rows)
        self._ledger.close()

    def _rest(self, rows: BatchRows) -> int:
        """Return the part to get by subtraction: the largest, or u where a penalty is in it."""
        if self._pending is not None:
            return self._pending.rest
        if self._learner.has_penalty:
            return self._n_groups
        return rows.counts.index(max(rows.counts))

    def _add(self, sums: Sums, rows: BatchRows, rest: int) -> None:
        if self._pending is None:
            self._pending = Pending(rest, self._n_groups)
        self._pending.add(sums, rows)
        self._ledger.close()


class _Window(AbstractContextManager[None]):
    """What `watch` returns: a class, because a generator takes as long as a small layer."""

    __slots__ = ("_codes", "_engine", "_rows")

    def __init__(self, engine: GradientEngine, codes: Tensor) -> None:
        self._engine = engine
        self._codes = codes

    def __enter__(self) -> None:
        self._rows = self._engine.open(self._codes)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._engine.close(self._rows, failed=kind is not None)
