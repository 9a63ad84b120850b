"""From a user's own forward and backward pass to the gradient of every group."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairclip.gradients._attention import held_parameters
from fairclip.gradients._calls import Call, CallRecorder, Detail
from fairclip.gradients._checks import (
    check_entries,
    check_first_order,
    differing,
    is_finite,
    tolerance,
    warn_of_batch_norm,
    warn_of_missed_rows,
    warn_of_new_calls,
    warn_of_penalty,
)
from fairclip.gradients._eager import Eager, unwrapped
from fairclip.gradients._group_gradients import GroupGradients
from fairclip.gradients._ledger import GradLedger
from fairclip.gradients._measure import Measurement
from fairclip.gradients._pending import Pending
from fairclip.gradients._plan import Plan
from fairclip.gradients._probe import find_layouts
from fairclip.gradients._replay import without_autocast
from fairclip.gradients._rerun import runs_alone
from fairclip.gradients._rows import BatchRows, Slots
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
        check: Compare the sum over all groups with ``.grad``: in the first step, always, or never.
            Always also finds the rows anew in each step.
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
        self._model = model
        self._parameters = trainable_parameters(model)
        self._registries: list[dict[str, Any]] = [
            registry for m in model.modules() for registry in (m._modules, m._parameters)
        ]
        self._frozen = [p for p in model.parameters() if not p.requires_grad]
        self._made_for = self._fingerprint()
        self._n_groups = n_groups
        self._check = check
        self._batch_dim = batch_dim
        by_id = {id(p): name for name, p in self._parameters.items()}
        modules = {
            name: module
            for name, module in model.named_modules()
            if any(p.requires_grad for p in module.parameters())
        }
        self._owners = {
            name: held
            for name, module in modules.items()
            if (
                held := {
                    local: by_id[id(p)]
                    for local, p in held_parameters(module).items()
                    if p.requires_grad
                }
            )
        }
        for name, module in modules.items():
            if type(module) is nn.MultiheadAttention:
                self._owners.pop(f"{name}.out_proj" if name else "out_proj", None)
        self._modules = modules
        self._recorder = CallRecorder(modules)
        self._recorder.find_writers()
        self._plan = Plan()
        self._served: set[str] = set()
        self._hook_all()
        self._ledger = GradLedger(self._parameters)
        self._unchecked = check == "first"
        self._has_penalty = False
        self._n_code_dims: int | None = None  # as they were learnt
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

    def watch(self, codes: Tensor) -> AbstractContextManager[None]:
        """Measure the forward and backward pass inside; `codes` (B,) or (B, T) int64 on the CPU."""
        return _Window(self, codes)

    def open(self, codes: Tensor) -> BatchRows:
        """Begin a window."""
        self._check_not_compiled()
        self.check_dims(codes)
        rows = self._open(codes)
        self._measurement = self._prepare(rows)
        self._recorder.put()
        self._recorder.start(self._measurement)
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
        calls = self._recorder.take()
        if not calls:
            raise RuntimeError(
                "The losses depend on no forward pass of the model that was seen since the last "
                "`clip_grad_()`. If the model is called inside a compiled function, compile the "
                "model instead, and pass what `torch.compile` returned to FairClipper."
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
        if measured and self._fingerprint() != self._made_for:
            raise RuntimeError(
                "The model has parameters that were added or unfrozen after the clipper was made: "
                "call `clipper.remove()` and make a new one."
            )
        if self._removed:
            raise RuntimeError("The clipper's hooks were removed: make a new clipper.")
        if (place := self._place()) != self._place_then:
            self._place_then = place
            self._recorder.find_writers()
        if not self._ledger.open(pending=self._pending is not None):
            self._pending = None

    def offer(self, calls: list[Call], rows: BatchRows) -> Measurement | None:
        """Prepare to measure taken calls of these rows; what it returns is for `end`."""
        measurement = self._prepare(rows)
        for call in calls:
            call.taker = measurement
        return measurement

    def check_dims(self, codes: Tensor) -> None:
        """Raise where codes by row and by token are mixed."""
        if codes.ndim != (self._n_code_dims or codes.ndim):
            raise ValueError(
                f"`groups` is {tuple(codes.shape)}, but was of {self._n_code_dims} dimensions in "
                "the windows before: make a new clipper to change from rows to tokens."
            )

    def mark(self) -> None:
        """Say that a backward pass has ended, so that later changes of ``.grad`` are noticed."""
        if self._unchecked:
            self._ledger.weigh()
        self._ledger.close()

    def end(self, calls: list[Call], rows: BatchRows, measurement: Measurement | None) -> None:
        """Measure taken calls after their backward pass; recording goes on."""
        self._recorder.stop()
        self._measurement = measurement
        self._end(calls, rows, failed=False)
        self._recorder.start(weakly=True)

    def _end(self, calls: list[Call], rows: BatchRows, *, failed: bool) -> None:
        try:
            if not failed:
                failed = True
                with without_autocast(self._place_then[0]):
                    self._close(calls, rows)
                failed = False
        finally:
            self._watching = False
            self._measurement = None
            if failed:
                self._pending = None
                self._ledger.abandon()
            for call in calls:
                call.release()

    def backward(self, losses: Tensor, codes: Tensor) -> None:
        """Run one backward pass a group over one forward pass: exact for any model, and slow."""
        if losses.shape != codes.shape:
            raise ValueError(
                f"`losses` must hold one loss a row, {tuple(codes.shape)}, got "
                f"{tuple(losses.shape)}. Use `reduction='none'`."
            )
        self._check_not_compiled()
        rows = self._open(codes)
        try:
            slots = rows.slots(rows.present(), losses.device)
            names = list(self._parameters)
            by_slot = [
                torch.autograd.grad(
                    part.sum() / rows.n_rows,
                    list(self._parameters.values()),
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for part in slots.split(losses.flatten())
            ]
            losses.mean().backward()
            grads = zip(names, zip(*by_slot, strict=True), strict=True)
            sums = Sums(slots, {name: torch.stack(tensors) for name, tensors in grads})
            self._add(sums, rows, rest=self._n_groups)
        finally:
            self._watching = False

    def check_idle(self) -> None:
        """Raise in the middle of a step."""
        if self._watching or self._pending is not None:
            raise RuntimeError("A step is under way: call `clip_grad_()` first.")

    def check_finished(self) -> None:
        """Raise where there is no window to end the step with, or ``.grad`` is not its own."""
        if self._watching:
            raise RuntimeError("Leave `watch` before `clip_grad_()`.")
        if self._pending is None:
            raise RuntimeError(
                "`clip_grad_()` needs a forward and backward pass inside `watch(groups)` first, or "
                "one of what `weigh(losses, groups)` returns."
            )
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise where ``.grad`` is not as a window left it."""
        if not self._ledger.unchanged():
            raise RuntimeError(
                "`.grad` was changed between the backward pass and `clip_grad_()`. With a "
                "GradScaler pass `clip_grad_(scaler, optimizer)` instead of calling "
                "`scaler.unscale_`."
            )

    def unchanged(self) -> bool:
        """Say whether ``.grad`` is as the last window left it."""
        return self._ledger.unchanged()

    def collect(self, *, by_layer: bool = False, scale: Tensor | None = None) -> GroupGradients:
        """End the step: return the contributions of all windows since the last one.

        Args:
            by_layer: Tell layers apart.
            scale: What ``.grad`` was multiplied by since the window, as a loss scaler does.
        """
        pending, self._pending = self._pending, None
        assert pending is not None
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
        self._watching = True
        return rows

    def _place(self) -> tuple[torch.device, torch.dtype]:
        first = next(iter(self._parameters.values()))
        return first.device, first.dtype

    def _fingerprint(self) -> list[int]:
        """Return what changes when a module or a parameter is added, replaced or unfrozen."""
        items = chain.from_iterable([registry.values() for registry in self._registries])
        return [*map(id, items), *[p.requires_grad for p in self._frozen]]

    def _close(self, calls: list[Call], rows: BatchRows) -> None:
        names = [name for name, p in self._parameters.items() if p.grad is not None]
        reached = [call for call in calls if call.is_reached]
        if not reached:
            raise RuntimeError(
                "The forward pass was outside of `watch`: put it inside, with the backward pass."
                if names
                else "No backward pass ran inside `watch`: call `loss.backward()` before it ends."
            )
        check_first_order(reached)
        always = self._check is True
        # No hook sees a backward pass inside of torch.func: a penalty that comes later hides there.
        seen = [call for call in calls if call.is_reached or call.is_transformed]
        if always or not (all(map(self._plan.knows, seen)) and self._served.issuperset(names)):
            if not self._learning:
                warn_of_new_calls([call for call in seen if not self._plan.knows(call)] or reached)
                self._hook_all()
                self._forget(rows)
                return
            self._learn(calls, reached, rows, names)
        if self._must_check():
            self._check_sums(reached, self._slots(rows), names)
            # One part alone cannot be wrong, and where nothing is finite nothing was compared.
            self._unchecked = len(rows.present()) < 2 or not is_finite(map(self._grad, names))
            self._hook()
            self._ledger.weigh()
        rest = self._rest(rows)
        measurement = self._measurement
        if measurement is None:
            measurement = self._measure(self._plan, self._slots(rows, without=rest))
        self._add(measurement.finish(reached, self._chosen(names)), rows, rest)

    def _prepare(self, rows: BatchRows) -> Measurement | None:
        """Return what uses gradients as they come, None where a window teaches or is checked."""
        if self._learning or self._must_check():
            return None
        return self._measure(self._plan, self._slots(rows, without=self._rest(rows)))

    def _must_check(self) -> bool:
        return self._pending is None and (self._check is True or self._unchecked)

    def _slots(self, rows: BatchRows, without: int | None = None) -> Slots:
        parts = [part for part in rows.present() if part != without]
        return rows.slots(parts, self._place_then[0])

    def _measure(self, plan: Plan, slots: Slots) -> Measurement:
        return Measurement(plan, self._owners, slots)

    def _forget(self, rows: BatchRows) -> None:
        if self._pending is None:
            self._pending = Pending(self._n_groups, self._n_groups)
        self._pending.forget(rows.n_rows)
        self._ledger.close()

    def _rest(self, rows: BatchRows) -> int:
        """Return the part to get by subtraction: the largest, or u where a penalty is in it."""
        if self._pending is not None:
            return self._pending.rest
        if self._has_penalty:
            return self._n_groups
        return rows.counts.index(max(rows.counts))

    def _add(self, sums: Sums, rows: BatchRows, rest: int) -> None:
        if self._pending is None:
            self._pending = Pending(rest, self._n_groups)
        self._pending.add(sums, rows)
        self._ledger.close()

    def _learn(
        self, calls: list[Call], reached: list[Call], rows: BatchRows, names: list[str]
    ) -> None:
        """Find the rows of every tensor, and decide which calls serve which parameter."""
        plan = self._plan
        if not plan.layouts:
            warn_of_batch_norm(self._model)
        plan.transformed.update(call.key[0] for call in calls if call.is_transformed)
        plan.learn(reached, find_layouts(calls, rows.shape, self._recorder, self._batch_dim))
        check_entries(reached, plan.layouts, rows.shape)
        plan.entries.update(call.key[0] for call in reached if call.is_entry)
        self._n_code_dims = len(rows.shape)
        plan.assign(names, self._owners, reached)
        self._find_alone(plan, reached, rows.n_rows)
        self._unchecked = self._check == "first"
        self._hook()

    def _find_alone(self, plan: Plan, calls: Sequence[Call], n_rows: int) -> None:
        for call in calls:
            module = call.key[0]
            if plan.by_rerun[module]:
                alone = runs_alone(call, plan.layouts[call.pattern], n_rows)
                plan.alone[module] = plan.alone.get(module, True) and alone

    def _hook_all(self) -> None:
        """Record everything, to learn from it."""
        self._learning = True
        self._recorder.hook(dict.fromkeys(self._modules, "replay"))

    def _hook(self) -> None:
        """Record what the plan needs, and any call that it does not know."""
        self._served = self._plan.served()
        if self._check is True or self._unchecked:
            return  # it learns in every step, and a check may have to find another way
        self._learning = False
        details: dict[str, Detail] = dict.fromkeys(self._owners, "call")
        replayed = [name for name, served in self._plan.by_rerun.items() if served]
        details.update(dict.fromkeys(replayed, "replay"))
        self._recorder.hook(details, self._plan.entries)

    def _check_sums(self, calls: list[Call], slots: Slots, names: list[str]) -> None:
        """Compute every part and add up; what does not, is missed rows or a penalty."""
        error = tolerance(calls)
        totals = {name: self._grad(name) for name in names}
        measured = self._measure(self._plan, slots)
        sums = measured.finish(calls, self._chosen(names)).all_dense()
        missing = differing(totals, sums, error)
        if not missing:
            return
        # The outputs of the outermost modules know all that rows can cause.
        plan = self._plan.copy()
        for name in missing:
            plan.hand_over(name, [], calls)
        self._find_alone(plan, calls, slots.n_rows)
        chosen = self._chosen(missing)
        again = self._measure(plan, slots).finish(calls, chosen).all_dense()
        if differing({name: totals[name] for name in missing}, again, error):
            plan.run_together()  # a backward pass may depend on others
            again = self._measure(plan, slots).finish(calls, chosen).all_dense()
        # Not the other way around: what is not finite has no difference to anything.
        right = {n: again[n].sum(0) if n in again else totals[n] * 0 for n in missing}
        if moved := differing(right, sums, error):
            warn_of_missed_rows(moved)
            for name in set(missing).difference(moved):
                plan.keep(name, self._plan)
            plan.missed.update(moved)
            self._plan = plan
            self._hook()
        if penalised := differing({name: totals[name] for name in missing}, again, error):
            if not self._has_penalty:
                warn_of_penalty(penalised)
            self._has_penalty = True

    def _chosen(self, names: list[str]) -> dict[str, nn.Parameter]:
        return {name: self._parameters[name] for name in names}

    def _grad(self, name: str) -> Tensor:
        grad = self._parameters[name].grad
        assert grad is not None
        return grad


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
