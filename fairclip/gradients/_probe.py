"""Find where the rows are in every recorded tensor: run the model on some rows alone and compare.

Adding up over the groups cannot find wrong rows, since any split of the rows adds up to the whole.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fairclip.gradients._call import Call, Key, detached
from fairclip.gradients._compare import are_distinct, find_layout, precision
from fairclip.gradients._layout import SHARED, Layout, Shape
from fairclip.gradients._recorder import CallRecorder
from fairclip.gradients._replay import Evaluate, Snapshot

Layouts = list[Layout | None]
"""One for each leaf of a call's inputs and outputs; None where it is not known."""


def has_rows(layout: Layout | None) -> bool:
    """Say whether a layout is known and holds rows."""
    return layout is not None and layout != SHARED


def some_rows(n_rows: int, device: torch.device) -> Tensor:
    """Return the numbers of another number of rows: more than half, or one of them twice."""
    if n_rows == 1:
        return torch.zeros(2, dtype=torch.int64, device=device)
    # Irregular, so that anything that goes by position is found out: rolled or turned, evenly
    # spaced rows alone may look as they do in the batch. With this seed none do.
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(1))
    return order[: n_rows // 2 + 1 if n_rows > 2 else 1].to(device)


def find_layouts(
    calls: Sequence[Call], shape: Shape, recorder: CallRecorder, batch_dim: int | None
) -> dict[Key, Layouts]:
    """Return the layouts of every call of a window, for codes of that shape.

    Each outermost call is run twice more with train flags off and without autocast, on the whole
    batch and on a part of the rows in another order; a tensor's layout is the one under which
    the second run holds those rows of the first.

    Raises:
        ValueError: If no input has B rows, or if two dimensions hold them equally well.
    """
    found: dict[Key, tuple[Layouts, list[Any]]] = {}
    for entry, ended in outermost_calls(calls):
        layouts, leaves = _of_entry(entry, shape, recorder, batch_dim)
        for name, ordinal in layouts:
            of_call = layouts[name, ordinal], leaves[name, ordinal]
            found[name, ended[name] + ordinal] = of_call
    known = {call.key: _of_call(call, *found[call.key]) for call in calls if call.key in found}
    return {key: layouts for key, layouts in known.items() if layouts is not None}


def outermost_calls(calls: Sequence[Call]) -> Iterator[tuple[Call, Counter[str]]]:
    """Yield those that gradients came back to, with how many calls of each module ended before."""
    ended: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for call in calls:
        inside[call.key[0]] += 1
        if call.is_outermost:
            if call.is_reached:
                yield call, ended
            ended.update(inside)
            inside.clear()


def _of_call(call: Call, layouts: Layouts, leaves: Sequence[Any]) -> Layouts | None:
    """Return the layouts of what the call itself took and gave, by those of what it did again."""
    places = _places(call, leaves)
    return None if places is None else [layouts[place] for place in places]


def _places(call: Call, leaves: Sequence[Any]) -> Sequence[int] | None:
    """Return where each leaf of the call is among those of the call when it was run again.

    There may be more, as a cache in evaluation. None where it went otherwise.
    """
    wanted, given = _shapes([*call.inputs, *call.outputs]), _shapes(leaves)
    if wanted == given:
        return range(len(given))
    places = _found(wanted, given)
    backwards = _found(wanted[::-1], given[::-1])
    if places is None or places != [len(given) - 1 - place for place in backwards or ()][::-1]:
        return None
    return places


def _shapes(leaves: Sequence[Any]) -> list[Any]:
    return [x.shape if isinstance(x, Tensor) else type(x) for x in leaves]


def _found(wanted: Sequence[Any], given: Sequence[Any]) -> list[int] | None:
    """Return where each one is, after the one before."""
    places = enumerate(given)
    found = [next((i for i, shape in places if shape == one), None) for one in wanted]
    return None if None in found else [i for i in found if i is not None]


def _of_entry(
    entry: Call, shape: Shape, recorder: CallRecorder, batch_dim: int | None
) -> tuple[dict[Key, Layouts], dict[Key, list[Any]]]:
    """Return the layouts and the leaves of an outermost call and of those inside of it."""
    n_rows = math.prod(shape)
    device = next((x.device for x in entry.inputs if isinstance(x, Tensor)), torch.device("cpu"))
    irregular = some_rows(n_rows, device)
    orders = irregular, irregular.sort().values  # a model may insist on rows sorted by length
    autocast = False  # low precision hides wrong rows
    try:
        whole = run(entry, entry.inputs, recorder, autocast=autocast)
    except Exception:  # a model may need it
        autocast = True
        whole = run(entry, entry.inputs, recorder, autocast=autocast)
    evaluate: Evaluate = "all"
    if _places(entry, whole[entry.key[0], 0]) is None:
        evaluate = "leaves"  # it returns something else in training
        whole = run(entry, entry.inputs, recorder, evaluate=evaluate, autocast=autocast)
    eps = precision(entry, chain.from_iterable(whole.values()), autocast=autocast)
    best, best_score, is_tied, failure = None, (0, 0, 0), False, None
    choices = _choices(entry, shape, batch_dim)
    for number, guess in enumerate(_guesses(choices)):
        for index in orders:
            part_inputs = [
                layout.select(leaf, n_rows, index) if has_rows(layout) else leaf
                for leaf, layout in zip(entry.inputs, guess, strict=True)
            ]
            try:
                part = run(entry, part_inputs, recorder, evaluate=evaluate, autocast=autocast)
                break
            except Exception as error:  # a wrong guess may fail in any way the model can
                failure = failure or error.with_traceback(None)  # which holds all tensors
        else:
            continue
        found = _compare(whole, part, shape, index, eps)
        of_entry = found[entry.key[0], 0]
        of_entry[: len(guess)] = guess
        outputs = [layout for layout in of_entry[len(guess) :] if layout is not None]
        dims = {layout.dim for layout in guess if has_rows(layout)}
        score = (
            sum(map(has_rows, outputs)),  # outputs tell most
            sum(layout.order in ("row", "token") and layout.dim in dims for layout in outputs),
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
            f"`groups` has {n_rows} codes, {tuple(shape)}, but no input of {entry.name} has that "
            "many rows (dimension 0, or 1 where the batch is second; dimensions 0 and 1 for codes "
            "by token). Pass one code a row of the batch, or `batch_dim`."
        )
    if is_tied:
        raise ValueError(
            f"The inputs of {entry.name} hold {n_rows} rows in two ways that fit equally well, as "
            "with as many time steps as rows, or a table of that length. Say which dimension is "
            "the batch, as in `batch_dim=0`, or begin with a batch of another size."
        )
    _distrust(best, whole, entry.key[0], n_rows)
    return best, whole


def _distrust(
    found: dict[Key, Layouts], leaves: dict[Key, list[Any]], entry: str, n_rows: int
) -> None:
    """Forget the layouts of calls whose rows all look the same, in a model that moves rows."""
    both = {key: list(zip(found[key], leaves[key], strict=True)) for key in found}
    if not any(
        layout is None and isinstance(x, Tensor) and x.ndim  # a loss has no rows to move
        for of in both.values()
        for layout, x in of
    ):
        return
    for key, of_call in both.items():
        with_rows = [
            (layout, x) for layout, x in of_call if layout is not None and has_rows(layout)
        ]
        tells = any(are_distinct(layout.rows(x, n_rows)) for layout, x in with_rows)
        if with_rows and not tells and key[0] != entry:
            found[key] = [None] * len(of_call)


def _choices(entry: Call, shape: Shape, batch_dim: int | None) -> list[list[Layout]]:
    """Return the ways in which each input of an outermost call may hold the rows."""
    choices: list[list[Layout]] = []
    for leaf in entry.inputs:
        fitting: list[Layout] = []
        if isinstance(leaf, Tensor) and len(shape) == 2:
            token = Layout(1, "token")
            fitting = [token] if batch_dim in (None, 0) and token.fits(leaf, shape) else []
        elif isinstance(leaf, Tensor):
            dims = range(min(2, leaf.ndim)) if batch_dim is None else [batch_dim]
            fitting = [Layout(d) for d in dims if Layout(d).fits(leaf, shape)]
        choices.append([*fitting, SHARED])
    return choices


def _guesses(choices: list[list[Layout]]) -> Iterator[list[Layout]]:
    """Yield what to try: the first choice of every input, then one input otherwise at a time."""
    usual = [choice[0] for choice in choices]
    guesses = [usual]
    for position, choice in enumerate(choices):
        guesses += [[*usual[:position], other, *usual[position + 1 :]] for other in choice[1:]]
    yield from (guess for guess in guesses if any(map(has_rows, guess)))


def run(
    entry: Call,
    inputs: list[Any],
    recorder: CallRecorder,
    *,
    evaluate: Evaluate = "all",
    autocast: bool = True,
) -> dict[Key, list[Any]]:
    """Run an outermost call again; return the leaves of every call, itself included."""
    args, kwargs = pytree.tree_unflatten(detached(inputs), entry.spec)
    snapshot = entry.snapshot or Snapshot.of(entry.module)
    with (
        snapshot.restored(entry.module, evaluate=evaluate, autocast=autocast),
        recorder.probing() as calls,
    ):
        entry.module(*args, **kwargs)
    leaves = {call.key: detached([*call.inputs, *call.outputs]) for call in calls}
    for call in calls:
        call.release()
    return leaves


def _compare(
    whole: dict[Key, list[Any]],
    part: dict[Key, list[Any]],
    shape: Shape,
    index: Tensor,
    eps: float,
) -> dict[Key, Layouts]:
    return {
        key: [
            _compare_leaf(a, b, shape, index, eps) for a, b in zip(leaves, part[key], strict=True)
        ]
        for key, leaves in whole.items()
        if key in part and len(part[key]) == len(leaves)
    }


def _compare_leaf(whole: Any, part: Any, shape: Shape, index: Tensor, eps: float) -> Layout | None:
    if isinstance(whole, Tensor) and isinstance(part, Tensor):
        return find_layout(whole, part, shape, index, eps)
    plain = isinstance(whole, bool | int | float | str | None) and type(whole) is type(part)
    return SHARED if whole is part or (plain and whole == part) else None
