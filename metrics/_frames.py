"""The tables of an audit, from figures (1 + K,): all rows first, then each group."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._calibration import calibration_frame
from ._figures import Figure
from ._intervals import Interval, difference, ratio, two_sided
from ._rates import Floats, Ints, Tally
from ._rows import Rows
from ._scores import are_probabilities, parts
from ._sweep import cuts, matched_row, sweep_frame

OVERALL = "overall"


def by_group_frame(rows: Rows, figures: Mapping[str, Figure]) -> pd.DataFrame:
    """Return n and the figures of each combination of levels, present or not."""
    columns: dict[str, NDArray[Any]] = {"n": rows.group_sizes()}
    if rows.weights is not None:
        known = rows.codes >= 0
        columns["weight"] = np.bincount(rows.codes[known], rows.weights[known], len(rows.names))
    columns |= {name: figure.interval.value[1:] for name, figure in figures.items()}
    frame = pd.DataFrame(columns, index=rows.present_index).reindex(rows.groups.index)
    return frame.assign(n=frame["n"].fillna(0).astype(np.int64))


def cells_frame(rows: Rows, tally: Tally) -> pd.DataFrame:
    """Return the rows of each (group, label) cell, one column a label value."""
    n = tally.n[1:].sum(2).astype(np.int64)
    present = pd.DataFrame(n, index=rows.present_index, columns=list(rows.values))
    return present.reindex(rows.groups.index, fill_value=0)


def intervals_frame(names: Sequence[str], figures: Mapping[str, Figure]) -> pd.DataFrame:
    """Return each figure of all rows and of each group, and how its interval was made."""
    frame = long_frame([OVERALL, *names], {name: f.interval for name, f in figures.items()})
    return frame.assign(
        method=[figure.method for figure in figures.values()] * (1 + len(names)),
        n=np.stack([figure.n for figure in figures.values()], axis=1).ravel(),
    )


def disparities_frame(
    names: Sequence[str], figures: Mapping[str, Figure], reference: int
) -> pd.DataFrame:
    """Return the difference and ratio of each group to the group at position `reference`."""
    others = [k for k in range(len(names)) if k != reference]
    differences, ratios = {}, {}
    for name, figure in figures.items():
        group = Interval(*(bound[1:][others] for bound in figure.interval))
        base = Interval(*(bound[1:][reference] for bound in figure.interval))
        differences[name] = difference(group, base)
        ratios[name] = ratio(group, base)
    other_names = [names[k] for k in others]
    renamed = {"value": "ratio", "low": "ratio_low", "high": "ratio_high"}
    return (
        long_frame(other_names, differences)
        .rename(columns={"value": "difference"})
        .join(long_frame(other_names, ratios).rename(columns=renamed))
    )


def long_frame(names: Sequence[str], figures: Mapping[str, Interval]) -> pd.DataFrame:
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


def calibration_by_group(rows: Rows, scores: Floats, confidence: float) -> pd.DataFrame | None:
    """Return the calibration of all rows and of each group; None where scores leave [0, 1]."""
    if not are_probabilities(scores):
        return None
    z = two_sided(confidence)
    return _stacked(
        rows, lambda truth, score, weight: calibration_frame(truth, score, weight, z), scores
    )


def sweep_by_group(rows: Rows, scores: Floats) -> pd.DataFrame:
    """Return what each cut of the score would do to all rows and to each group."""
    at = cuts(scores)
    return _stacked(
        rows, lambda truth, score, weight: sweep_frame(truth, score, weight, at), scores
    )


def matched_by_group(rows: Rows, scores: Floats, selection_rate: float) -> pd.DataFrame:
    """Return the rates of each group, cut where it selects as large a share as the model does."""
    weights = rows.each_weight()
    found = {
        name: matched_row(rows.truth[part], scores[part], weights[part], selection_rate)
        for name, part in zip(
            [OVERALL, *rows.names], parts(rows.codes, len(rows.names)), strict=True
        )
    }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("group")


def _stacked(
    rows: Rows, of: Callable[[Ints, Floats, Floats], pd.DataFrame], scores: Floats
) -> pd.DataFrame:
    weights = rows.each_weight()
    frames = {
        name: of(rows.truth[part], scores[part], weights[part])
        for name, part in zip(
            [OVERALL, *rows.names], parts(rows.codes, len(rows.names)), strict=True
        )
    }
    return pd.concat(frames, names=["group"])
