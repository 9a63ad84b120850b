"""The tables of an audit, from encoded rows and cell counts: all rows first, (1 + K, 2, 2)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._intervals import Interval, balanced, difference, wilson
from ._permutation import GAPS, gap_p
from ._rates import divide, successes_and_trials
from ._rows import Rows
from ._worst import gap, worst_cell, worst_group

OVERALL = "overall"

_METHODS = {
    "balanced_accuracy": "square-and-add",
    "auc": "DeLong",
    "brier": "normal",
    "ece": "none",
}  # every other figure: Wilson


def rate_intervals(counts: NDArray[np.int64], z: float) -> dict[str, Interval]:
    """Return every figure that is a function of the counts, each (1 + K,)."""

    def rate(name: str) -> Interval:
        return wilson(*successes_and_trials(counts, name), z)

    return {
        "base_rate": rate("base_rate"),
        "accuracy": rate("accuracy"),
        "balanced_accuracy": balanced(rate("tpr"), rate("fpr")),
        "selection_rate": rate("selection_rate"),
        "tpr": rate("tpr"),
        "fpr": rate("fpr"),
        "fnr": rate("fnr"),
        "precision": rate("precision"),
    }


def by_group_frame(
    rows: Rows, counts: NDArray[np.int64], figures: dict[str, Interval]
) -> pd.DataFrame:
    """Return n and the figures of each combination of levels, present or not."""
    values = {name: figure.value[1:] for name, figure in figures.items()}
    present = pd.DataFrame({"n": counts[1:].sum((1, 2)), **values}, index=rows.present_index)
    frame = present.reindex(rows.groups.index)
    return frame.assign(n=frame["n"].fillna(0).astype(np.int64))


def cells_frame(rows: Rows, counts: NDArray[np.int64]) -> pd.DataFrame:
    """Return the rows of each (group, label) cell, one column a label value."""
    columns = list(rows.labels.values)
    present = pd.DataFrame(counts[1:].sum(2), index=rows.present_index, columns=columns)
    return present.reindex(rows.groups.index, fill_value=0)


def intervals_frame(rows: Rows, figures: dict[str, Interval]) -> pd.DataFrame:
    """Return each figure of all rows and of each group, and how its interval was made."""
    frame = long_frame([OVERALL, *rows.names], figures)
    metrics = frame.index.get_level_values("metric")
    return frame.assign(method=[_METHODS.get(metric, "Wilson") for metric in metrics])


def disparities_frame(rows: Rows, figures: dict[str, Interval], reference: int) -> pd.DataFrame:
    """Return the difference and ratio of each group to the group at position `reference`."""
    others = [k for k in range(len(rows.names)) if k != reference]
    differences, ratios = {}, []
    for name, figure in figures.items():
        group = Interval(*(bound[1:][others] for bound in figure))
        base = Interval(*(bound[1:][reference] for bound in figure))
        differences[name] = difference(group, base)
        ratios.append(divide(group.value, base.value))
    frame = long_frame([rows.names[k] for k in others], differences)
    return frame.rename(columns={"value": "difference"}).assign(ratio=np.array(ratios).T.ravel())


def long_frame(names: Sequence[str], figures: dict[str, Interval]) -> pd.DataFrame:
    """Return intervals, each (names,), with one row for each name and figure."""
    index = pd.MultiIndex.from_product([list(names), list(figures)], names=["group", "metric"])
    columns = {
        part: np.stack([getattr(figure, part) for figure in figures.values()], axis=1).ravel()
        for part in Interval._fields
    }
    return pd.DataFrame(columns, index=index)


def select(frame: pd.DataFrame, **levels: str) -> pd.DataFrame:
    """Return the rows with these index levels, without the levels."""
    for level, value in levels.items():
        frame = frame[frame.index.get_level_values(level) == value].droplevel(level)
    return frame


def group_names(intervals: pd.DataFrame) -> list[str]:
    """Return the names of the groups that have rows, in the order of `by_group_frame`."""
    return [str(name) for name in intervals.index.unique("group") if name != OVERALL]


def gaps_frame(
    rows: Rows, counts: NDArray[np.int64], n_draws: int, random_state: int
) -> pd.DataFrame:
    """Return each gap between the groups with its permutation p."""
    rng = np.random.default_rng(random_state)
    found = {
        name: gap(counts[1:], rows.names, name)._asdict()
        | {"p": gap_p(counts[1:], name, n_draws, rng)}
        for name in GAPS
    }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("gap")


def worst_frame(rows: Rows, counts: NDArray[np.int64], confidence: float) -> pd.DataFrame:
    """Return the group and the cell with the lowest accuracy, with bounds."""
    group = worst_group(counts[1:], rows.names, confidence)
    cell = worst_cell(counts[1:], rows.names, rows.labels.values, confidence)
    found = {"worst_group_accuracy": group._asdict(), "worst_cell_accuracy": cell._asdict()}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("figure")
