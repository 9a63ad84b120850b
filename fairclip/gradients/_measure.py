"""The group sums of one window, from its calls. Shapes: B rows."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fairclip.gradients._calls import Call
from fairclip.gradients._plan import Owners, Plan
from fairclip.gradients._probe import Layouts, has_rows
from fairclip.gradients._rerun import rerun
from fairclip.gradients._rows import Slots

Sums = dict[str, list[Tensor]]
"""For each parameter that rows reached, one tensor a slot."""


@torch.no_grad()
def measure(
    calls: Iterable[Call],
    plan: Plan,
    owners: Owners,
    parameters: Mapping[str, nn.Parameter],
    slots: Slots,
) -> Sums:
    """Return what the rows of each slot caused in `parameters`, added up over the calls."""
    sums: Sums = {}
    for call in calls:
        module = call.key[0]
        check_rows(call, plan.layouts[call.pattern], slots.n_rows)
        if not slots.parts:
            continue
        if served := plan.by_rule[module] & parameters.keys():
            for local, tensors in _by_rule(call, plan, slots).items():
                if (name := owners[module][local]) in served:
                    _add(sums, name, tensors)
        if served := plan.by_rerun[module] & parameters.keys():
            chosen = {name: parameters[name] for name in sorted(served)}
            for name, tensors in _by_rerun(call, plan, chosen, slots).items():
                _add(sums, name, tensors)
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


def _by_rule(call: Call, plan: Plan, slots: Slots) -> Sums:
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


def _by_rerun(call: Call, plan: Plan, parameters: Mapping[str, nn.Parameter], slots: Slots) -> Sums:
    by_slot = rerun(
        call,
        plan.layouts[call.pattern],
        list(parameters.values()),
        slots,
        alone=plan.alone[call.key[0]],
    )
    return {
        name: [torch.zeros_like(parameter) if t is None else t for t in tensors]
        for (name, parameter), tensors in zip(
            parameters.items(), zip(*by_slot, strict=True), strict=True
        )
    }


def _add(sums: Sums, name: str, tensors: Sequence[Tensor]) -> None:
    held = sums.get(name)
    sums[name] = (
        list(tensors) if held is None else [a + b for a, b in zip(held, tensors, strict=True)]
    )
