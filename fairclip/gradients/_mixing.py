"""Find what training does to the rows, and evaluation does not: it mixes them, or moves them."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from fairclip.gradients._call import Call, Key
from fairclip.gradients._compare import is_close, precision
from fairclip.gradients._probe import Layouts, has_rows, outermost_calls, run, some_rows
from fairclip.gradients._recorder import CallRecorder


def mixed_in_training(
    calls: Sequence[Call], layouts: Mapping[Key, Layouts], n_rows: int, recorder: CallRecorder
) -> list[Key]:
    """Return the calls in which a row depends on others, or is not where its layout says.

    Each outermost call is run once more as it was, with other rows in the place of some: all the
    rest must stay as they were. Where a forward pass is not repeated by the random numbers of torch
    nothing can be said, and with batch statistics all rows depend on each other.
    """
    if n_rows == 1:
        return []
    index = some_rows(n_rows, torch.device("cpu"))
    rest = torch.ones(n_rows, dtype=torch.bool).index_fill_(0, index, False).nonzero().flatten()
    mixed: set[Key] = set()
    for entry, ended in outermost_calls(calls):
        if entry.key not in layouts or _has_batch_statistics(entry):
            continue
        inside = {
            (call.key[0], call.key[1] - ended[call.key[0]]): call
            for call in calls
            if call.key in layouts
        }
        exchanged = _exchanged(entry, layouts[entry.key], n_rows, index)
        if disturbed := _disturbed(entry, exchanged, inside, layouts, rest, n_rows, recorder):
            # Not what is never the same.
            disturbed -= _disturbed(entry, entry.inputs, inside, layouts, rest, n_rows, recorder)
        mixed |= disturbed
    return [*mixed]


def _disturbed(
    entry: Call,
    inputs: list[Any],
    inside: Mapping[Key, Call],
    layouts: Mapping[Key, Layouts],
    rest: Tensor,
    n_rows: int,
    recorder: CallRecorder,
) -> set[Key]:
    """Run an outermost call with other inputs; return the calls in which the rest is not as it was.

    ``inside`` are the calls as they were, counted from this outermost one on.
    """
    try:
        leaves = run(entry, inputs, recorder, evaluate="none")
    except Exception:  # a model may dislike rows in another order in any way it can
        return set()
    eps = precision(entry, chain.from_iterable(leaves.values()))
    return {
        call.key
        for key, call in inside.items()
        if key in leaves and not _keeps(call, leaves[key], layouts[call.key], n_rows, rest, eps)
    }


def _exchanged(call: Call, layouts: Layouts, n_rows: int, index: Tensor) -> list[Any]:
    """Return the inputs with other rows in the place of some.

    Whole numbers, one a row, stay: of lengths it may depend how many random numbers are drawn.
    """
    with_rows = [i for i, layout in enumerate(layouts[: len(call.inputs)]) if has_rows(layout)]
    chosen = [i for i in with_rows if call.inputs[i].ndim > 1 or call.inputs[i].is_floating_point()]
    exchanged = list(call.inputs)
    for i in chosen or with_rows:
        layout = layouts[i]
        assert layout is not None
        exchanged[i] = layout.exchange(exchanged[i], n_rows, index)
    return exchanged


def _keeps(
    call: Call, found: Sequence[Any], layouts: Layouts, n_rows: int, rest: Tensor, eps: float
) -> bool:
    """Say whether the rest of what a call took and gave is as it was."""
    leaves = [*call.inputs, *call.outputs]
    return len(leaves) == len(found) and all(
        leaf.shape == now.shape
        and is_close(
            layout.rows(leaf, n_rows).index_select(0, rest.to(leaf.device)),
            layout.rows(now, n_rows).index_select(0, rest.to(leaf.device)),
            eps,
        )
        for leaf, now, layout in zip(leaves, found, layouts, strict=True)
        # A mask that a model makes only where something is masked may be none now.
        if layout is not None and has_rows(layout) and isinstance(now, Tensor)
    )


def _has_batch_statistics(entry: Call) -> bool:
    return any(isinstance(m, _NormBase) and m.training for m in entry.module.modules())
