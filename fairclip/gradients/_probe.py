"""Find where the rows are in every recorded tensor: run the model on some rows alone and compare.

Adding up over the groups cannot find wrong rows, since any split of the rows adds up to the whole.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fairclip.gradients._calls import Call, CallRecorder, Key, detached
from fairclip.gradients._layout import SHARED, Layout, find_layout
from fairclip.gradients._replay import Snapshot

Layouts = list[Layout | None]
"""One for each leaf of a call's inputs and outputs; None where it is not known."""


def has_rows(layout: Layout | None) -> bool:
    """Say whether a layout is known and holds rows."""
    return layout is not None and layout != SHARED


def some_rows(n_rows: int, device: torch.device) -> Tensor:
    """Return the numbers of another number of rows: about half, or one of them twice."""
    if n_rows == 1:
        return torch.zeros(2, dtype=torch.int64, device=device)
    # Not a prefix and not in order, so that anything that goes by position is found out.
    return torch.arange(n_rows - 1, -1, -2, device=device)


def find_layouts(
    calls: Sequence[Call], n_rows: int, recorder: CallRecorder, batch_dim: int | None
) -> dict[Key, Layouts]:
    """Return the layouts of every call of a window.

    Each outermost call is run twice more with all train flags off, on the whole batch and on about
    half of the rows in reverse order; a tensor's layout is the one under which the second run
    holds those rows of the first.

    Raises:
        ValueError: If no input has B rows, or if two dimensions hold them equally well.
    """
    found: dict[Key, Layouts] = {}
    ended: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for call in calls:
        inside[call.key[0]] += 1
        if not call.is_entry:
            continue
        if call.is_reached:
            for (name, ordinal), layouts in _of_entry(call, n_rows, recorder, batch_dim).items():
                found[name, ended[name] + ordinal] = layouts
        ended.update(inside)
        inside.clear()
    # A call that went otherwise in evaluation is left out, and so not known.
    expected = {call.key: len(call.pattern[1]) for call in calls}
    return {key: found[key] for key in found if expected.get(key) == len(found[key])}


def _of_entry(
    entry: Call, n_rows: int, recorder: CallRecorder, batch_dim: int | None
) -> dict[Key, Layouts]:
    device = next((x.device for x in entry.inputs if isinstance(x, Tensor)), torch.device("cpu"))
    index = some_rows(n_rows, device)
    whole = _run(entry, entry.inputs, recorder)
    best, best_score, is_tied, failure = None, (0, 0, 0), False, None
    choices = _choices(entry, n_rows, batch_dim)
    for number, guess in enumerate(_guesses(choices)):
        part_inputs = [
            layout.select(leaf, n_rows, index) if has_rows(layout) else leaf
            for leaf, layout in zip(entry.inputs, guess, strict=True)
        ]
        try:
            part = _run(entry, part_inputs, recorder)
        except Exception as error:  # a wrong guess may fail in any way the model can
            failure = failure or error
            continue
        found = _compare(whole, part, n_rows, index)
        of_entry = found[entry.key[0], 0]
        of_entry[: len(guess)] = guess
        outputs = [layout for layout in of_entry[len(guess) :] if layout is not None]
        dims = {layout.dim for layout in guess if has_rows(layout)}
        score = (
            sum(map(has_rows, outputs)),  # outputs tell most
            sum(layout.order == "row" and layout.dim in dims for layout in outputs),
            sum(has_rows(layout) for layouts in found.values() for layout in layouts),
        )
        if score >= best_score:
            best, best_score, is_tied = found, score, score == best_score
        is_explained = not any(None in layouts for layouts in found.values())
        if number == 0 and is_explained and max(map(len, choices)) == 2:
            break  # every tensor is explained, and none has two dimensions that fit
    if best is None and failure is not None:
        raise RuntimeError(
            f"A part of the rows cannot be run through {entry.name} without the others, so that "
            "they cannot be told apart. Use `clipper.backward(losses, groups)`."
        ) from failure
    if best is None:
        raise ValueError(
            f"`groups` has {n_rows} codes, but no input of {entry.name} has that many rows "
            "(dimension 0, or 1 where the batch is second). Pass one code a row of the batch, or "
            "`batch_dim`."
        )
    if is_tied:
        raise ValueError(
            f"The inputs of {entry.name} hold {n_rows} rows in two ways that fit equally well, as "
            "with as many time steps as rows, or a table of that length. Say which dimension is "
            "the batch, as in `batch_dim=0`, or begin with a batch of another size."
        )
    return best


def _choices(entry: Call, n_rows: int, batch_dim: int | None) -> list[list[Layout]]:
    """Return the ways in which each input of an outermost call may hold the rows."""
    choices: list[list[Layout]] = []
    for leaf in entry.inputs:
        fitting: list[Layout] = []
        if isinstance(leaf, Tensor):
            dims = range(min(2, leaf.ndim)) if batch_dim is None else [batch_dim]
            fitting = [Layout(d) for d in dims if d < leaf.ndim and leaf.shape[d] == n_rows]
        choices.append([*fitting, SHARED])
    return choices


def _guesses(choices: list[list[Layout]]) -> Iterator[list[Layout]]:
    """Yield what to try: the first choice of every input, then one input otherwise at a time."""
    usual = [choice[0] for choice in choices]
    guesses = [usual]
    for position, choice in enumerate(choices):
        guesses += [[*usual[:position], other, *usual[position + 1 :]] for other in choice[1:]]
    yield from (guess for guess in guesses if any(map(has_rows, guess)))


def _run(entry: Call, inputs: list[Any], recorder: CallRecorder) -> dict[Key, list[Any]]:
    """Run an outermost call in evaluation; return the leaves of every call, itself included."""
    args, kwargs = pytree.tree_unflatten(detached(inputs), entry.spec)
    snapshot = entry.snapshot or Snapshot.take(entry.module)
    with snapshot.restored(entry.module, evaluate=True), recorder.probing() as calls:
        entry.module(*args, **kwargs)
    leaves = {call.key: detached([*call.inputs, *call.outputs]) for call in calls}
    for call in calls:
        call.release()
    return leaves


def _compare(
    whole: dict[Key, list[Any]], part: dict[Key, list[Any]], n_rows: int, index: Tensor
) -> dict[Key, Layouts]:
    return {
        key: [_compare_leaf(a, b, n_rows, index) for a, b in zip(leaves, part[key], strict=True)]
        for key, leaves in whole.items()
        if key in part and len(part[key]) == len(leaves)
    }


def _compare_leaf(whole: Any, part: Any, n_rows: int, index: Tensor) -> Layout | None:
    if isinstance(whole, Tensor) and isinstance(part, Tensor):
        return find_layout(whole, part, n_rows, index)
    plain = isinstance(whole, bool | int | float | str | None) and type(whole) is type(part)
    return SHARED if whole is part or (plain and whole == part) else None
