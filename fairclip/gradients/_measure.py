"""The group sums of one window, from its calls. Shapes: B rows, S slots."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fairclip.gradients._calls import Call
from fairclip.gradients._outer import Outer
from fairclip.gradients._plan import Owners, Plan
from fairclip.gradients._probe import Layouts, has_rows
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
    n_calls = Counter([call.key[0] for call in calls])
    for call in calls:
        module = call.key[0]
        check_rows(call, plan.layouts[call.pattern], slots.n_rows)
        if not slots.parts:
            continue
        if served := plan.by_rule[module] & parameters.keys():
            found = _by_rule(call, plan, slots)
            names = {local: name for local, name in owners[module].items() if name in served}
            if isinstance(found, Outer):
                outer = found.renamed(names)
                is_only = n_calls[module] == 1 and plan.tied.isdisjoint(outer.names())
                if is_only and outer.is_worth_keeping(len(slots.parts)):
                    sums.outer.append(outer)
                else:
                    sums.add(outer.sums(slots))
            else:
                sums.add({names[local]: found[local] for local in found if local in names})
        if served := plan.by_rerun[module] & parameters.keys():
            chosen = {name: parameters[name] for name in sorted(served)}
            sums.add(_by_rerun(call, plan, chosen, slots))
    return sums


def check_rows(call: Call, layouts: Layouts, n_rows: int) -> None:
    """Raise where a call does not hold that many rows."""
    for leaf, layout in zip(call.inputs, layouts, strict=False):  # of the outputs come after
        if layout is not None and has_rows(layout) and not layout.fits(leaf, n_rows):
            raise ValueError(
                f"`groups` has {n_rows} codes, but an input of module '{call.key[0]}' has the "
                f"shape {tuple(leaf.shape)}, of which dimension {layout.dim} holds the rows"
                f"{', one entry each' if layout.order == 'row' else ''}. Pass one code a row of "
                "the batch. If rows have more entries now than in the first step, make a new "
                "clipper that begins with such a batch."
            )


def _by_rule(call: Call, plan: Plan, slots: Slots) -> Mapping[str, Tensor] | Outer:
    (of_input, of_output), grad = plan.layouts[call.pattern], call.grads[0]
    assert of_input is not None
    assert of_output is not None
    assert grad is not None
    call.check_inputs_unchanged()
    return plan.rules[call.pattern](
        call.module,
        of_input.leading(call.inputs[0], slots.n_rows),
        of_output.leading(grad, slots.n_rows),
        slots,
    )


def _by_rerun(
    call: Call, plan: Plan, parameters: Mapping[str, nn.Parameter], slots: Slots
) -> dict[str, Tensor]:
    by_slot = rerun(
        call,
        plan.layouts[call.pattern],
        list(parameters.values()),
        slots,
        alone=plan.alone[call.key[0]],
    )
    return {
        name: torch.stack([torch.zeros_like(parameter) if t is None else t for t in tensors])
        for (name, parameter), tensors in zip(
            parameters.items(), zip(*by_slot, strict=True), strict=True
        )
    }
