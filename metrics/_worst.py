"""The group and the cell that fare worst, and the gaps between groups."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ._intervals import Interval, quantile, wilson
from ._rates import Floats, Ints, Tally, accuracy
from ._sizes import effective_size


class Worst(NamedTuple):
    """The lowest accuracy, or the largest error, of all groups or cells that have rows."""

    value: float
    name: str
    n: int
    bound: float


class Gap(NamedTuple):
    """The largest max - min over the groups of the rates that a gap is made of."""

    value: float
    rate: str
    lowest: str | None
    highest: str | None


def worst_group(tally: Tally, names: Sequence[str], confidence: float = 0.95) -> Worst:
    """Return the group with the lowest accuracy; the tally is of K groups."""
    found = accuracy(tally)
    return _least(found.successes, found.trials, found.size, found.n, names, confidence)


def worst_cell(
    tally: Tally, names: Sequence[str], values: Sequence[Any], confidence: float = 0.95
) -> Worst:
    """Return the (group, label) cell with the lowest recall; `values` are the labels' own."""
    cells = [cell_name(name, value) for name in names for value in values]
    right, squared_right = (
        np.diagonal(part, axis1=-2, axis2=-1).ravel() for part in (tally.weight, tally.square)
    )
    total, squared_total, n = (
        part.sum(-1).ravel() for part in (tally.weight, tally.square, tally.n)
    )
    size = effective_size(right, total, squared_right, squared_total)
    return _least(right, total, size, n.astype(np.int64), cells, confidence)


def worst_accuracies(
    tally: Tally, names: Sequence[str], values: Sequence[Any], confidence: float
) -> pd.DataFrame:
    """Return the group and the cell with the lowest accuracy, with bounds."""
    return _frame(
        worst_group_accuracy=worst_group(tally, names, confidence),
        worst_cell_accuracy=worst_cell(tally, names, values, confidence),
    )


def worst_error(one_sided: Interval, n: Ints, names: Sequence[str]) -> pd.DataFrame:
    """Return the group with the largest error; bounds (1 + K,) are one-sided each.

    The largest of them is the bound, for the reason that `_least` gives.
    """
    errors = one_sided.value[1:]
    at = int(np.nanargmax(errors))
    bound = float(one_sided.high[1:][~np.isnan(errors)].max())
    return _frame(worst_group_mae=Worst(float(errors[at]), names[at], int(n[1:][at]), bound))


def cell_name(group: str, label: Any) -> str:
    """Return "sex=female, y=1"."""
    return f"{group}, y={label}"


def widest(rates: Sequence[tuple[str, Floats]], names: Sequence[str]) -> Gap:
    """Return the largest spread of the rates, each (K,); NaN where one is undefined in a group."""
    return max(
        (_spread(values, names, rate) for rate, values in rates),
        key=lambda found: np.inf if np.isnan(found.value) else found.value,
    )


def _frame(**found: Worst) -> pd.DataFrame:
    rows = {name: worst._asdict() for name, worst in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("figure")


def _spread(values: Floats, names: Sequence[str], rate: str) -> Gap:
    if np.isnan(values).any():
        return Gap(float("nan"), rate, None, None)
    spread = float(np.ptp(values))
    # Equal shares of sums of weights in another order differ by rounding.
    if spread <= 1e-12 * float(np.abs(values).max()):
        spread = 0.0
    return Gap(spread, rate, names[int(values.argmin())], names[int(values.argmax())])


def _least(
    right: Floats, total: Floats, size: Floats, n: Ints, names: Sequence[str], confidence: float
) -> Worst:
    """Return the least share with a bound that none is below.

    The bound is the least of one-sided Wilson bounds, each at `confidence`: it is not above the
    bound of the share that is the least in truth, and that one holds with `confidence`.
    """
    present = np.flatnonzero(total)
    shares = wilson(right[present], total[present], quantile(confidence), size[present])
    least = int(shares.value.argmin())
    at = int(present[least])
    return Worst(float(shares.value[least]), names[at], int(n[at]), float(shares.low.min()))
