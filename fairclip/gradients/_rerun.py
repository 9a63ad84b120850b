"""The way out for any module: run it again on the rows of each group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fairclip._arrays import on_host
from fairclip.gradients._call import Call, detached
from fairclip.gradients._compare import closeness, precision
from fairclip.gradients._probe import Layouts, has_rows, some_rows
from fairclip.gradients._replay import Snapshot
from fairclip.gradients._rows import Slots
from fairclip.gradients._trees import flatten


def can_rerun(call: Call, layouts: Layouts | None) -> bool:
    """Say whether the rows are known where the call takes them in and where gradients came back."""
    if layouts is None:
        return False
    outputs = layouts[len(call.inputs) :]
    reached = [x for x, grad in zip(outputs, call.grads, strict=True) if grad is not None]
    return all(map(has_rows, reached)) and any(map(has_rows, layouts[: len(call.inputs)]))


def runs_alone(call: Call, layouts: Layouts, n_rows: int) -> bool | None:
    """Say whether some rows, run alone, give the outputs they gave in the batch.

    They do not where the call draws random numbers, mixes rows or counts them. None where not even
    the whole batch gives the same outputs again.
    """
    if not call.outputs_unchanged() or call.snapshot is None:
        return False
    outputs, draws = _forward(call, call.inputs)
    if not _agreement(call, call.outputs, outputs):
        return None
    counts_rows = any(getattr(m, "scale_grad_by_freq", False) for m in call.module.modules())
    if draws or counts_rows or None in layouts[: len(call.inputs)]:
        return False
    index = some_rows(n_rows, next(x.device for x in call.outputs if isinstance(x, Tensor)))
    expected = _select(call.outputs, layouts[len(call.inputs) :], n_rows, index)
    try:
        outputs, _ = _forward(call, _select(call.inputs, layouts, n_rows, index))
    except Exception:  # a module may dislike fewer rows in any way it can
        return False
    return bool(_agreement(call, expected, outputs))


def rerun(
    call: Call, layouts: Layouts, parameters: Sequence[nn.Parameter], slots: Slots, *, alone: bool
) -> list[list[Tensor | None]]:
    """Return what the rows of each slot caused in `parameters` through this call.

    Rows that do not run ``alone`` are run with the whole batch, the gradient of its outputs masked:
    exact too, at the cost of the whole batch.

    Returns:
        One list a slot, of one tensor a parameter; None where nothing depends on the parameter.
    """
    call.check_inputs_unchanged()
    if not can_rerun(call, layouts):
        raise RuntimeError(
            f"The loss depends on an output of {call.name} that no step before used, and in which "
            "the rows cannot be told apart. Use `clipper.backward(losses, groups)`."
        )
    of_outputs = layouts[len(call.inputs) :]
    by_slot: list[list[Tensor | None]] = []
    for index in slots.indices() if alone else ():
        outputs, draws = _forward(call, _select(call.inputs, layouts, slots.n_rows, index))
        expected = _select(call.outputs, of_outputs, slots.n_rows, index)
        right = _agreement(call, expected, outputs)
        if draws or (on_host(right.device) and not right):
            by_slot = []  # it was not so when this was learnt
            break
        grads = _select(call.grads, of_outputs, slots.n_rows, index)
        by_slot.append(_backward(outputs, grads, parameters, right, retain_graph=False))
    if by_slot:
        return by_slot
    outputs, _ = _forward(call, call.inputs)
    right = _agreement(call, call.outputs, outputs)
    if on_host(right.device) and not right:
        raise RuntimeError(irreproducible(call))
    for index in slots.indices():
        grads = _mask(call.grads, of_outputs, slots.n_rows, index)
        by_slot.append(_backward(outputs, grads, parameters, right, retain_graph=True))
    return by_slot


def _backward(
    outputs: Sequence[Any],
    grads: Sequence[Tensor | None],
    parameters: Sequence[nn.Parameter],
    right: Tensor,
    *,
    retain_graph: bool,
) -> list[Tensor | None]:
    """Return the gradients of the parameters; NaN where the outputs are not ``right``."""
    reached = [i for i, grad in enumerate(grads) if grad is not None]
    found = torch.autograd.grad(
        [outputs[i] for i in reached],
        list(parameters),
        [grads[i] for i in reached],
        retain_graph=retain_graph,
        allow_unused=True,
    )
    if on_host(right.device):
        return list(found)
    return [None if x is None else torch.where(right, x, torch.nan) for x in found]


def _forward(call: Call, inputs: list[Any]) -> tuple[list[Any], bool]:
    """Run a call again; return its outputs, and whether it drew random numbers."""
    args, kwargs = pytree.tree_unflatten(detached(inputs), call.spec)
    snapshot = call.snapshot or Snapshot.of(call.module)
    with snapshot.restored(call.module):
        outputs, _ = flatten(call.module(*args, **kwargs))
        return outputs, snapshot.draws()


def _select(leaves: Sequence[Any], layouts: Layouts, n_rows: int, index: Tensor) -> list[Any]:
    return [
        layout.select(leaf, n_rows, index)
        if isinstance(leaf, Tensor) and layout is not None and has_rows(layout)
        else leaf
        for leaf, layout in zip(leaves, layouts, strict=False)  # the layouts of inputs come first
    ]


def _mask(
    grads: Sequence[Tensor | None], layouts: Layouts, n_rows: int, index: Tensor
) -> list[Tensor | None]:
    return [
        None if grad is None or layout is None else layout.keep(grad, n_rows, index)
        for grad, layout in zip(grads, layouts, strict=True)
    ]


def _agreement(call: Call, expected: Sequence[Any], found: Sequence[Any]) -> Tensor:
    """Return whether the outputs that gradients came back to are as expected, () bool.

    It waits for no device. Outputs that were modified in place since the call tell nothing.
    """
    pairs = [
        (a, b) for a, b, grad in zip(expected, found, call.grads, strict=False) if grad is not None
    ]
    if len(expected) != len(found) or any(a.shape != b.shape for a, b in pairs):
        return torch.tensor(False)
    if not call.outputs_unchanged():
        return torch.tensor(True)
    eps = precision(call, found)
    return torch.stack([closeness(a, b, eps) for a, b in pairs]).all()


def irreproducible(call: Call) -> str:
    """Say that a call cannot be run again."""
    return (
        f"{call.name[0].upper()}{call.name[1:]} does not give the same outputs when it is run "
        "again, so its group gradients cannot be computed by running it again. Use "
        "`clipper.backward(losses, groups)`."
    )
