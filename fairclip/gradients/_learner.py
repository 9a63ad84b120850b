"""How a model's calls are served: learnt from the first window, and checked."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from fairclip.gradients._call import Call
from fairclip.gradients._checks import (
    check_outermost,
    differing,
    is_finite,
    tolerance,
    warn_of_batch_norm,
    warn_of_missed_rows,
    warn_of_new_calls,
    warn_of_penalty,
)
from fairclip.gradients._measure import Measurement
from fairclip.gradients._mixing import mixed_in_training
from fairclip.gradients._owners import Owners
from fairclip.gradients._plan import Plan
from fairclip.gradients._probe import find_layouts
from fairclip.gradients._recorder import CallRecorder, Detail
from fairclip.gradients._rerun import irreproducible, runs_alone
from fairclip.gradients._rows import BatchRows, Slots
from fairclip.gradients._sums import Sums


class Learner:
    """Knows how to measure what it has learnt, and has recorded what that takes.

    Args:
        model: Of which the calls are.
        recorder: Told what to record.
        owners: Which module holds which parameters.
        parameters: The trainable ones, by name.
        check: As of `GradientEngine`.
        batch_dim: As of `GradientEngine`.

    Attributes:
        is_learning: Whether everything is recorded.
        is_unchecked: Whether the next step's first window is to be checked.
        has_penalty: Whether a part of the gradient comes from no row.
        n_code_dims: Of the codes that it learnt with; None before.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: CallRecorder,
        owners: Owners,
        parameters: Mapping[str, nn.Parameter],
        *,
        check: Literal["first"] | bool,
        batch_dim: int | None,
    ) -> None:
        self._model = model
        self._recorder = recorder
        self._owners = owners
        self._parameters = parameters
        self._check = check
        self._batch_dim = batch_dim
        self._plan = Plan()
        self._served: set[str] = set()
        self._n_steps = 0
        self._knows_one_row = False  # and no more, which everything fits
        self._warned_of_batch_norm = False
        self.is_unchecked = check == "first"
        self.has_penalty = False
        self.n_code_dims: int | None = None
        self._record_everything()

    def knows(self, calls: Sequence[Call], rows: BatchRows, names: Sequence[str]) -> bool:
        """Say whether these calls were learnt, and serve the parameters of these names."""
        if self._check is True:
            return False  # learnt anew in each step
        if self._knows_one_row and rows.n_rows > 1:
            return False
        return all(map(self._plan.knows, calls)) and self._served.issuperset(names)

    def start_over(self, calls: Sequence[Call]) -> None:
        """Record everything from here on, to learn from it; warn of the calls that are new."""
        warn_of_new_calls([call for call in calls if not self._plan.knows(call)] or calls)
        self._record_everything()

    def end_step(self) -> None:
        """Get ready for the next step: what was 0 in all steps so far may be wrong in it.

        So steps 2, 4, 8, ... are checked as well, unless none is to be.
        """
        self._n_steps += 1
        is_due = self._n_steps & (self._n_steps + 1) == 0
        if self._check == "first" and is_due and not self.is_learning:
            self.is_unchecked = True
            self._record_what_is_needed()

    def learn(
        self, calls: Sequence[Call], reached: Sequence[Call], rows: BatchRows, names: Sequence[str]
    ) -> None:
        """Find the rows of every tensor, and decide which calls serve which parameter."""
        self._warn_of_batch_norm()
        if self._knows_one_row:
            self._plan = Plan()
        self._knows_one_row = rows.n_rows == 1
        plan = self._plan
        plan.transformed.update(call.key[0] for call in calls if call.is_transformed)
        layouts = find_layouts(calls, rows.shape, self._recorder, self._batch_dim)
        for key in mixed_in_training(calls, layouts, rows.n_rows, self._recorder):
            del layouts[key]
        plan.learn(reached, layouts)
        check_outermost(reached, plan.layouts, rows.shape)
        plan.outermost.update(call.key[0] for call in reached if call.is_outermost)
        self.n_code_dims = len(rows.shape)
        plan.assign(names, self._owners, reached)
        _find_alone(plan, reached, rows.n_rows)
        self.is_unchecked = self._check == "first"
        self._record_what_is_needed()

    def must_check(self, *, is_first_window: bool) -> bool:
        """Say whether a window is to be checked: the first of a step, when `check` asks for it."""
        return is_first_window and (self._check is True or self.is_unchecked)

    def check(self, slots: Slots, calls: Sequence[Call], names: Sequence[str]) -> None:
        """Change the plan where what the rows of every part cause is not the gradient in sum.

        Either rows were missed, or there is a penalty. What is worked out for this is not used for
        the step: it would differ in the last bit from a step that is not checked, and so would a
        run that was resumed, which checks its first step.
        """
        self._warn_of_batch_norm()
        grads = self._grads(names)
        self._put_right(slots, calls, grads)
        # One part alone cannot be wrong, and where nothing is finite nothing was compared.
        self.is_unchecked = len(slots.parts) < 2 or not is_finite(grads.values())
        if not self.is_learning:  # else what is new is yet to come again
            self._record_what_is_needed()

    def measurement(self, slots: Slots) -> Measurement:
        """Return what measures the rows of these slots."""
        return Measurement(self._plan, self._owners, slots)

    def _warn_of_batch_norm(self) -> None:
        if not self._warned_of_batch_norm:
            self._warned_of_batch_norm = warn_of_batch_norm(self._model)

    def _record_everything(self) -> None:
        """Record all that there is to learn from and to check."""
        self.is_learning = True
        self._recorder.hook(dict.fromkeys(self._recorder.modules, "replay"))

    def _record_what_is_needed(self) -> None:
        """Record what the plan needs, and any call that it does not know."""
        self._served = self._plan.served()
        if self._check is True:
            return  # it learns in every step
        self.is_learning = False
        details: dict[str, Detail] = dict.fromkeys(self._owners, "call")
        replayed = {name for name, served in self._plan.by_rerun.items() if served}
        if self.is_unchecked:
            replayed |= self._plan.outermost  # they may have to serve more
        details.update(dict.fromkeys(replayed, "replay"))
        self._recorder.hook(details, self._plan.outermost)

    def _put_right(self, slots: Slots, calls: Sequence[Call], grads: Mapping[str, Tensor]) -> None:
        error = tolerance(calls)
        sums = self._sums(self._plan, calls, slots, grads)
        missing = differing(grads, sums, error)
        if not missing:
            return
        grads = {name: grads[name] for name in missing}
        # The outputs of the outermost modules know all that rows can cause.
        plan = self._plan.copy()
        for name in missing:
            plan.hand_over(name, [], calls)
        _find_alone(plan, calls, slots.n_rows)
        again = self._sums(plan, calls, slots, grads)
        if differing(grads, again, error):
            plan.run_together()  # a backward pass may depend on others
            again = self._sums(plan, calls, slots, grads)
        found = {name: again.get(name) for name in missing}
        # Not the other way around: what is not finite has no difference to anything.
        right = {n: grads[n] * 0 if x is None else x.sum(0) for n, x in found.items()}
        moved = differing(right, sums, error)
        if moved:
            warn_of_missed_rows(moved)
            for name in set(missing).difference(moved):
                plan.keep(name, self._plan)
            plan.missed.update(moved)
            self._plan = plan
        if penalised := differing(grads, again, error):
            if not self.has_penalty:
                warn_of_penalty(penalised)
            self.has_penalty = True

    def _sums(
        self, plan: Plan, calls: Sequence[Call], slots: Slots, grads: Mapping[str, Tensor]
    ) -> Sums:
        """Return what the rows of each slot caused in the parameters that ``grads`` are of."""
        parameters = {name: self._parameters[name] for name in grads}
        return Measurement(plan, self._owners, slots).finish(calls, parameters)

    def _grads(self, names: Sequence[str]) -> dict[str, Tensor]:
        grads = {name: self._parameters[name].grad for name in names}
        return {name: grad for name, grad in grads.items() if grad is not None}


def _find_alone(plan: Plan, calls: Sequence[Call], n_rows: int) -> None:
    """Find out which of the modules that are run again can run some rows alone.

    One that does not even run again as it did, as with a cache that it fills, leaves that to those
    around it, whose calls come later.

    Raises:
        RuntimeError: If the outermost module does not either.
    """
    for call in calls:
        module = call.key[0]
        if served := plan.by_rerun[module]:
            alone = runs_alone(call, plan.layouts[call.pattern], n_rows)
            if alone is None and call.is_outermost:
                raise RuntimeError(irreproducible(call))
            if alone is None:
                for name in list(served):
                    plan.hand_over(name, [module], calls)
            else:
                plan.alone[module] = plan.alone.get(module, True) and alone
