"""The largest difference between two groups, with its permutation p."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from ._permutation import gap_p, row_gap_p
from ._rates import Floats, Ints, Tally, divide
from ._row_sets import RowSet
from ._rows import Rows
from ._worst import Gap, widest


class _Compared(NamedTuple):
    """What a gap looks at: rates of K groups by name, and the counts behind them, each (K, C)."""

    rates: list[tuple[str, Floats]]
    tables: list[Floats]


def label_gaps(
    tally: Tally, names: tuple[str, ...], rows_values: tuple[object, ...]
) -> dict[str, Gap]:
    """Return each gap between K groups."""
    return {
        name: widest(compared.rates, names)
        for name, compared in _compared(tally.weight, rows_values).items()
    }


def label_gaps_frame(
    rows: Rows, predictions: Ints, tally: Tally, n_draws: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Return each gap between the groups with its permutation p."""
    gaps = label_gaps(tally, rows.names, rows.values)
    compared = _compared(tally.n, rows.values)

    def p(name: str) -> float:
        if np.isnan(gaps[name].value):
            return float("nan")
        if rows.weights is None:
            return gap_p(compared[name].tables, n_draws, rng)
        return row_gap_p(_row_sets(rows, predictions)[name], len(rows.names), n_draws, rng)

    return _frame(gaps, p)


def number_gaps(rows: Rows, predictions: Floats) -> dict[str, Gap]:
    """Return each gap of a regression."""
    return {
        f"{name}_difference": widest([(name, group_means(rows, each))], rows.names)
        for name, each in _errors(rows, predictions).items()
    }


def number_gaps_frame(
    rows: Rows, predictions: Floats, n_draws: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Return each gap of a regression with its permutation p."""
    errors = _errors(rows, predictions)

    def p(name: str) -> float:
        values = errors[name.removesuffix("_difference")]
        return row_gap_p([_row_set(rows, values[:, None])], len(rows.names), n_draws, rng)

    return _frame(number_gaps(rows, predictions), p)


def _frame(gaps: Mapping[str, Gap], p: Callable[[str], float]) -> pd.DataFrame:
    found = {name: gap._asdict() | {"p": p(name)} for name, gap in gaps.items()}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("gap")


def _compared(counts: Floats, values: tuple[object, ...]) -> dict[str, _Compared]:
    """Return what is compared for each gap, from counts by label and prediction, (K, C, C)."""
    right = np.diagonal(counts, axis1=1, axis2=2).sum(1)
    accuracy = np.stack([right, counts.sum((1, 2)) - right], axis=1)
    selected = counts.sum(1)
    of_label = [counts[:, label] for label in range(len(values))]
    return {
        "accuracy_difference": _Compared([("accuracy", _shares(accuracy)[:, 0])], [accuracy]),
        "demographic_parity_difference": _Compared(_named(selected, values), [selected]),
        "equalized_odds_difference": _Compared(
            [
                rate
                for label, table in reversed(list(enumerate(of_label)))
                for rate in _named(table, values, label)
            ],
            of_label,
        ),
    }


def _named(
    table: Floats, values: tuple[object, ...], label: int | None = None
) -> list[tuple[str, Floats]]:
    """Name the share of each prediction among the rows of one label, or among all."""
    shares = _shares(table)
    if len(values) == 2:
        name = "selection_rate" if label is None else ("fpr", "tpr")[label]
        return [(name, shares[:, 1])]
    of = "" if label is None else f" | y={values[label]}"
    kind = "selection_rate" if label is None else "P"
    return [(f"{kind}[{value}{of}]", shares[:, c]) for c, value in enumerate(values)]


def _shares(table: Floats) -> Floats:
    return divide(table, table.sum(1, keepdims=True))


def _errors(rows: Rows, predictions: Floats) -> dict[str, Floats]:
    error = predictions - rows.truth
    return {"mae": np.abs(error), "bias": error}


def group_means(rows: Rows, values: Floats) -> Floats:
    """Return the weighted mean of each group, (K,)."""
    known = rows.codes >= 0
    weights = rows.each_weight()
    k = len(rows.names)
    total = np.bincount(rows.codes[known], weights[known], k)
    return divide(np.bincount(rows.codes[known], (weights * values)[known], k), total)


def _row_sets(rows: Rows, predictions: Ints) -> dict[str, list[RowSet]]:
    """Return the rows behind each gap, with what is averaged over them."""
    right = (predictions == rows.truth).astype(np.float64)[:, None]
    selected = np.eye(len(rows.values))[predictions]
    return {
        "accuracy_difference": [_row_set(rows, right)],
        "demographic_parity_difference": [_row_set(rows, selected)],
        "equalized_odds_difference": [
            _row_set(rows, selected, rows.truth == label) for label in range(len(rows.values))
        ],
    }


def _row_set(
    rows: Rows, values: Floats, where: "np.ndarray[tuple[int], np.dtype[np.bool_]] | bool" = True
) -> RowSet:
    kept = (rows.codes >= 0) & where
    weights = None if rows.weights is None else rows.weights[kept]
    return RowSet(values[kept], rows.codes[kept], weights)
