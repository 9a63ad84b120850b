"""What every figure starts from: encoded labels, groups and weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._groups import Groups, encode_groups
from ._labels import (
    as_column,
    binary_values,
    check_length,
    class_values,
    encode_labels,
    find_task,
    floats,
)
from ._rates import Tally

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows with a truth and a group each.

    Attributes:
        task: "binary", "multiclass" or "regression".
        values: The C labels; of two the favourable one is the last. Empty in a regression.
        truth: Position of each label in `values`, or the true numbers of a regression, (N,).
        predictions: By model: likewise, (N,).
        groups: Every combination of levels.
        present: Codes of the K groups that have rows.
        codes: Position of each row's group in `present`, (N,); -1 = unknown.
        names: Of the present groups, (K,).
        weights: What each row counts, (N,), or None for 1.
        repeats: How many rows each entry stands for, (N,), or None for 1.
    """

    task: str
    values: tuple[Any, ...]
    truth: NDArray[Any]
    predictions: dict[str, NDArray[Any]]
    groups: Groups
    present: Ints
    codes: Ints
    names: tuple[str, ...]
    weights: Floats | None = None
    repeats: Ints | None = None

    @property
    def n_rows(self) -> int:
        """All rows, those of unknown groups too."""
        return len(self.truth) if self.repeats is None else int(self.repeats.sum())

    @property
    def n_unknown(self) -> int:
        """Rows that lack a sensitive feature."""
        unknown = self.codes < 0
        return int(unknown.sum() if self.repeats is None else self.repeats[unknown].sum())

    @property
    def present_index(self) -> "pd.Index[Any]":
        """The levels of the present groups, (K,)."""
        return self.groups.index[self.present]

    def each_weight(self) -> Floats:
        """Return what each row counts, (N,)."""
        return np.ones(len(self.truth)) if self.weights is None else self.weights

    def group_sizes(self) -> Ints:
        """Return the rows of each present group, (K,)."""
        return _sums(self.codes + 1, self.repeats, len(self.names) + 1)[1:].astype(np.int64)

    def tally(self, *predictions: NDArray[np.int64]) -> Tally:
        """Count the rows by label and prediction: all rows first, then each group, (1 + K, C, C).

        With two predictions by label and both, (1 + K, C, C, C).
        """
        c, k = len(self.values), len(self.names)
        cells = self.codes + 1
        for labels in (self.truth, *predictions):
            cells = cells * c + labels
        shape = (1 + k, *[c] * (1 + len(predictions)))

        def count(each: NDArray[Any] | None) -> Floats:
            counts = _sums(cells, each, int(np.prod(shape))).reshape(shape)
            counts[0] = counts.sum(0)  # until here the first entry is of the unknown rows
            return counts

        n = count(self.repeats)
        if self.weights is None:
            return Tally(n, n, n)
        return Tally(n, count(self.weights), count(self.weights**2))


def _sums(positions: Ints, each: NDArray[Any] | None, length: int) -> Floats:
    sums: Floats = np.bincount(positions, weights=each, minlength=length).astype(np.float64)
    return sums


def encode_rows(
    y_true: Any,
    y_preds: Mapping[str, Any],
    sensitive_features: Any,
    *,
    task: str = "auto",
    favourable: Any = None,
    sample_weight: Any = None,
    repeats: Ints | None = None,
) -> Rows:
    """Check and encode all columns; the keys of `y_preds` are what errors call them."""
    truth = as_column(y_true, "y_true")
    columns = {name: as_column(y_pred, name) for name, y_pred in y_preds.items()}
    for name, column in columns.items():
        check_length(len(column), len(truth), name)
    task = find_task(truth, list(columns.values()), task)
    groups = encode_groups(sensitive_features, len(truth), repeats)
    present = np.unique(groups.codes[groups.codes >= 0])
    if len(present) == 0:
        raise ValueError("`sensitive_features` have a missing value in every row.")
    position = np.full(len(groups.names) + 1, -1)
    position[present] = np.arange(len(present))
    if task == "regression":
        values: tuple[Any, ...] = ()
        _refuse_favourable(favourable)
    elif task == "binary":
        values = binary_values(truth, favourable)
    else:
        _refuse_favourable(favourable)
        values = class_values([truth, *columns.values()])

    def code(column: "pd.Series[Any]", name: str) -> NDArray[Any]:
        if task == "regression":
            return floats(column, len(truth), name)
        return encode_labels(column, values, name)

    codes = position[groups.codes]
    return Rows(
        task=task,
        values=values,
        truth=code(truth, "y_true"),
        predictions={name: code(column, name) for name, column in columns.items()},
        groups=groups,
        present=present,
        codes=codes,
        names=tuple(groups.names[k] for k in present),
        weights=None if sample_weight is None else _weights(sample_weight, codes >= 0),
        repeats=repeats,
    )


def _refuse_favourable(favourable: Any) -> None:
    if favourable is not None:
        raise ValueError("`favourable` is of two labels; leave it out for this task.")


def _weights(sample_weight: Any, is_known: NDArray[np.bool_]) -> Floats:
    weights = floats(sample_weight, len(is_known), "sample_weight")
    if (weights < 0).any() or not weights[is_known].any():
        raise ValueError(
            "`sample_weight` must be 0 or more, and not 0 in every row that belongs to a group."
        )
    if not 1e-100 < weights.max() < 1e100:  # squares are summed
        raise ValueError(
            f"`sample_weight` must be of a usual size, got up to {weights.max():.0e}. Divide the "
            "weights by their mean."
        )
    return weights
