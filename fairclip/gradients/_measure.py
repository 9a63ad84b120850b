"""The group sums of one window, from its calls. Shapes: B rows, S slots."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fairclip.gradients._calls import Call
from fairclip.gradients._outer import Outer
from fairclip.gradients._plan import Owners, Plan, Route
from fairclip.gradients._rerun import rerun
from fairclip.gradients._rows import Slots


@dataclass(slots=True)
class Sums:
    """What the rows of each slot caused.

    All that is kept is a sum over rows: it could be added up over processes.

    Args:
        slots: Whose rows these are.
        dense: For each parameter that rows reached a tensor (S, *shape), unless it is in ``outer``.
        outer: Rows whose outer products are the sums of their parameters.
    """

    slots: Slots
    dense: dict[str, Tensor] = field(default_factory=dict)
    outer: list[Outer] = field(default_factory=list)

    def add(self, found: Mapping[str, Tensor]) -> None:
        """Add a call's sums to those of the calls before."""
        for name, tensor in found.items():
            held = self.dense.get(name)
            # Not in place: autograd may have given one tensor for two parameters.
            self.dense[name] = tensor if held is None else held + tensor

    def add_outer(self, outer: Outer) -> None:
        """Add the only call that serves some parameters."""
        if outer.is_worth_keeping(len(self.slots.parts)):
            self.outer.append(outer)
        else:
            self.dense.update(outer.sums(self.slots))

    def added(self, others: "Sums") -> "Sums":
        """Return the sums of two windows, which may hold different parts."""
        parts = tuple(dict.fromkeys((*self.slots.parts, *others.slots.parts)))
        joined = Sums(self.slots.without_rows(parts))
        for window in (self, others):
            places = [parts.index(part) for part in window.slots.parts]
            for name, tensor in window.all_dense().items():
                if name not in joined.dense:
                    joined.dense[name] = tensor.new_zeros(len(parts), *tensor.shape[1:])
                for place, of_part in zip(places, tensor, strict=True):
                    joined.dense[name][place] += of_part
        return joined

    def without(self, part: int) -> "Sums":
        """Return the sums of the other parts."""
        slot = self.slots.parts.index(part)
        others = [i for i in range(len(self.slots.parts)) if i != slot]
        dense = {
            name: torch.stack([t[i] for i in others]) if others else t[:0]
            for name, t in self.all_dense().items()
        }
        return Sums(self.slots.without_rows([self.slots.parts[i] for i in others]), dense)

    def scaled(self, scale: Tensor) -> "Sums":
        """Return all of it times a number."""
        return Sums(
            self.slots,
            {name: tensor * scale for name, tensor in self.dense.items()},
            [replace(outer, grads=outer.grads * scale) for outer in self.outer],
        )

    def all_dense(self) -> dict[str, Tensor]:
        """Return the sums of all parameters, (S, *shape) each."""
        dense = dict(self.dense)
        for outer in self.outer:
            dense.update(outer.sums(self.slots))
        return dense


@torch.no_grad()
def measure(
    calls: Collection[Call],
    plan: Plan,
    owners: Owners,
    parameters: Mapping[str, nn.Parameter],
    slots: Slots,
) -> Sums:
    """Return what the rows of each slot caused in `parameters`, added up over the calls."""
    sums = Sums(slots)
    repeated = {call.key[0] for call in calls if call.key[1]}
    for call in calls:
        route = plan.route(call, owners)
        _check_rows(call, route, slots.n_rows)
        if not slots.parts:
            continue
        if names := {local: n for local, n in route.by_rule.items() if n in parameters}:
            found = _by_rule(call, route, slots)
            if not isinstance(found, Outer):
                sums.add({names[local]: found[local] for local in found if local in names})
            elif call.key[0] not in repeated and plan.tied.isdisjoint(names.values()):
                sums.add_outer(found.renamed(names))
            else:
                sums.add(found.renamed(names).sums(slots))
        if chosen := {name: parameters[name] for name in route.by_rerun if name in parameters}:
            sums.add(_by_rerun(call, route, chosen, slots))
    return sums


def _check_rows(call: Call, route: Route, n_rows: int) -> None:
    """Raise where a call does not hold that many rows."""
    for position, layout in route.rows:
        leaf = call.inputs[position]
        if not layout.fits(leaf, n_rows):
            raise ValueError(
                f"`groups` has {n_rows} codes, but an input of module '{call.key[0]}' has the "
                f"shape {tuple(leaf.shape)}, of which dimension {layout.dim} holds the rows"
                f"{', one entry each' if layout.order == 'row' else ''}. Pass one code a row of "
                "the batch. If rows have more entries now than in the first step, make a new "
                "clipper that begins with such a batch."
            )


def _by_rule(call: Call, route: Route, slots: Slots) -> Mapping[str, Tensor] | Outer:
    inputs, grad = call.inputs[0], call.grads[0]
    assert grad is not None
    assert route.rule is not None
    call.check_inputs_unchanged()
    if not route.is_plain:
        of_input, of_output = route.layouts
        assert of_input is not None
        assert of_output is not None
        inputs = of_input.leading(inputs, slots.n_rows)
        grad = of_output.leading(grad, slots.n_rows)
    return route.rule(call.module, inputs, grad, slots)


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
