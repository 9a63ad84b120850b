"""The group sums of one window, from its calls. Shapes: B rows, S slots."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fairclip.gradients._attention import attention_sums
from fairclip.gradients._call import Call
from fairclip.gradients._layout import Shape
from fairclip.gradients._outer import Outer
from fairclip.gradients._owners import Owners
from fairclip.gradients._plan import Plan, Route
from fairclip.gradients._replay import without_autocast
from fairclip.gradients._rerun import rerun
from fairclip.gradients._rows import Slots
from fairclip.gradients._sums import Sums


class Measurement:
    """Collects what the rows of each slot cause, call by call.

    Args:
        plan: How calls are served.
        owners: Which module holds which parameters.
        slots: Whose rows are looked at.
    """

    def __init__(self, plan: Plan, owners: Owners, slots: Slots) -> None:
        self._plan = plan
        self._owners = owners
        self._sums = Sums(slots)

    def receive(self, call: Call, grad: Tensor) -> bool:
        """Serve a call by its rule when a gradient has come; say whether that was all of it."""
        if not self._plan.knows(call):
            return False
        route = self._plan.route(call, self._owners)
        if not route.by_rule or route.by_rerun or route.rule is None:
            return False
        _check_rows(call, route, self._sums.slots.shape)
        if self._sums.slots.parts:
            with torch.no_grad(), without_autocast(grad.device):
                self._add_by_rule(call, route, grad)
        return True

    @torch.no_grad()
    def finish(self, calls: Sequence[Call], parameters: Mapping[str, nn.Parameter]) -> Sums:
        """Serve the calls that are left; return what the rows caused in ``parameters``."""
        for call in reversed(calls):  # as gradients come, so that sums are the same in each bit
            if call.is_served:
                continue
            route = self._plan.route(call, self._owners)
            _check_rows(call, route, self._sums.slots.shape)
            if not self._sums.slots.parts:
                continue
            if not parameters.keys().isdisjoint(route.by_rule.values()):
                self._add_by_rule(call, route, call.grads[0])
            if chosen := {n: parameters[n] for n in route.by_rerun if n in parameters}:
                self._sums.add(_by_rerun(call, route, chosen, self._sums.slots))
        return self._sums.of(parameters.keys())

    def _add_by_rule(self, call: Call, route: Route, grad: Tensor | None) -> None:
        call.check_inputs_unchanged()
        if call.projections:
            for found in attention_sums(call.projections, self._sums.slots):
                self._add(found, route.by_rule)
            return
        inputs, slots = call.inputs[0], self._sums.slots
        assert route.rule is not None
        assert grad is not None
        if not route.is_plain:
            of_input, of_output = route.layouts
            assert of_input is not None
            assert of_output is not None
            inputs = of_input.leading(inputs, slots.n_rows)
            grad = of_output.leading(grad, slots.n_rows)
        self._add(route.rule(call.module, inputs, grad, slots), route.by_rule)

    def _add(self, found: Mapping[str, Tensor] | Outer, names: Mapping[str, str]) -> None:
        if isinstance(found, Outer):
            self._sums.add_outer(found.renamed(names))
        else:
            self._sums.add({names[local]: x for local, x in found.items() if local in names})


def _check_rows(call: Call, route: Route, shape: Shape) -> None:
    """Raise where a call does not hold the rows of codes of that shape."""
    for position, layout in route.rows:
        leaf = call.inputs[position]
        if not layout.fits(leaf, shape):
            raise ValueError(
                f"`groups` has {math.prod(shape)} codes, {tuple(shape)}, but an input of "
                f"{call.name} is {tuple(leaf.shape)}, of which {layout.describe()}. Pass one code "
                "a row of the batch. If rows have more entries now than in the first step, make a "
                "new clipper that begins with such a batch."
            )


def _by_rerun(
    call: Call, route: Route, parameters: Mapping[str, nn.Parameter], slots: Slots
) -> dict[str, Tensor]:
    by_slot = rerun(call, route.layouts, list(parameters.values()), slots, alone=route.alone)
    return {
        name: torch.stack([torch.zeros_like(parameter) if t is None else t for t in tensors])
        for (name, parameter), tensors in zip(
            parameters.items(), zip(*by_slot, strict=True), strict=True
        )
    }
