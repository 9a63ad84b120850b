"""The group and the cell with the lowest accuracy, and the gaps between groups."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._intervals import bound_of_least
from ._permutation import GAPS
from ._rates import rate


class Least(NamedTuple):
    """The lowest accuracy of all groups or cells that have rows."""

    value: float
    name: str
    n: int
    lower_bound: float


class Gap(NamedTuple):
    """The largest max - min of the rates that a gap is made of."""

    value: float
    rate: str
    lowest: str | None
    highest: str | None


def worst_group(
    counts: NDArray[np.int64], names: tuple[str, ...], confidence: float = 0.95
) -> Least:
    """Return the group with the lowest accuracy; counts are (K, 2, 2)."""
    correct = np.trace(counts, axis1=1, axis2=2)
    return _least(correct, counts.sum((1, 2)), names, confidence)


def worst_cell(
    counts: NDArray[np.int64],
    names: tuple[str, ...],
    values: tuple[Any, Any],
    confidence: float = 0.95,
) -> Least:
    """Return the (group, label) cell with the lowest recall; `values` are the labels' own."""
    correct = np.diagonal(counts, axis1=1, axis2=2)
    cells = tuple(cell_name(name, value) for name in names for value in values)
    return _least(correct.ravel(), counts.sum(2).ravel(), cells, confidence)


def cell_name(group: str, label: Any) -> str:
    """Return "sex=female, y=1"."""
    return f"{group}, y={label}"


def gap(counts: NDArray[np.int64], names: tuple[str, ...], name: str) -> Gap:
    """Return the gap called `name`, NaN where one of its rates is undefined in a group."""
    return max(
        (_spread(rate(counts, which), names, which) for which in GAPS[name]),
        key=lambda found: np.inf if np.isnan(found.value) else found.value,
    )


def _spread(values: NDArray[np.float64], names: tuple[str, ...], which: str) -> Gap:
    if np.isnan(values).any():
        return Gap(float("nan"), which, None, None)
    return Gap(float(np.ptp(values)), which, names[values.argmin()], names[values.argmax()])


def _least(
    correct: NDArray[np.int64], n: NDArray[np.int64], names: tuple[str, ...], confidence: float
) -> Least:
    present = np.flatnonzero(n)
    shares = correct[present] / n[present]
    least = int(present[shares.argmin()])
    bound = bound_of_least(correct[present], n[present], confidence)
    return Least(float(shares.min()), names[least], int(n[least]), bound)
