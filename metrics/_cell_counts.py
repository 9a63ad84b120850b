"""Rows of each (group, label, prediction) cell: additive, so that rows may come in parts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ._groups import feature_frame
from ._labels import as_column, check_length
from ._read import read_batches

Cell: TypeAlias = tuple[Any, ...]

_MAX_CELLS = 1_000_000


class CellCounts:
    """Rows of each (sensitive features, label, prediction) cell, for `audit_counts`.

    Counts add up: over batches (`update`), over shards or workers (`merge`), and over the parts of
    a file that does not fit into memory (`read`). Memory grows with the number of different cells,
    not of rows. Missing sensitive features are kept and become rows without a group.

    Example:
        >>> from fairclip.metrics import CellCounts, audit_counts
        >>> counts = CellCounts()
        >>> for y, p, sex in [([0, 1], [0, 1], ["f", "m"]), ([1, 1], [0, 1], ["f", "m"])]:
        ...     _ = counts.update(y, p, sensitive_features={"sex": sex})
        >>> counts.to_frame()["n"].tolist()
        [1, 2, 1]
        >>> audit_counts(counts, n_boot=99).by_group["accuracy"].to_dict()
        {'f': 0.5, 'm': 1.0}
    """

    def __init__(self) -> None:
        self._features: list[str] | None = None
        self._counts: Counter[tuple[Any, ...]] = Counter()  # by features, label and prediction

    def update(self, y_true: Any, y_pred: Any, *, sensitive_features: Any) -> "CellCounts":
        """Add rows.

        Args:
            y_true: The label of each row, as in `audit`.
            y_pred: The prediction for each row.
            sensitive_features: As in `audit`; the same columns each time.

        Returns:
            Itself.

        Raises:
            ValueError: If lengths differ, labels or predictions are missing, the columns are others
                than before, or there are more than a million cells.
        """
        truth, prediction = as_column(y_true, "y_true"), as_column(y_pred, "y_pred")
        check_length(len(prediction), len(truth), "y_pred")
        features = feature_frame(sensitive_features)
        check_length(len(features), len(truth), "sensitive_features")
        columns = [features.iloc[:, i] for i in range(features.shape[1])]
        return self._add(map(str, features.columns), _count([*columns, truth, prediction]))

    def merge(self, other: "CellCounts") -> "CellCounts":
        """Add the rows of other counts.

        Args:
            other: Counts with the same sensitive features.

        Returns:
            Itself.

        Raises:
            ValueError: If the columns are others, or there are more than a million cells.
        """
        return (
            self if other._features is None else self._add(other._features, other._counts.items())
        )

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        y_true: str,
        y_pred: str,
        sensitive_features: Sequence[str],
        progress: bool = False,
    ) -> "CellCounts":
        """Count the rows of a file in one pass, a part of it in memory at a time.

        Args:
            path: A CSV, CSV.gz or Parquet file.
            y_true: Name of the column of labels.
            y_pred: Name of the column of predictions.
            sensitive_features: Names of the sensitive columns.
            progress: Show a progress bar.

        Returns:
            The counts.

        Raises:
            ValueError: If the file cannot be read, lacks a column, or labels are missing.
        """
        counts, features = cls(), list(sensitive_features)
        columns = list(dict.fromkeys([*features, y_true, y_pred]))
        for part in read_batches(path, columns, progress=progress):
            counts.update(part[y_true], part[y_pred], sensitive_features=part[features])
        return counts

    def to_frame(self) -> pd.DataFrame:
        """Return one row a cell: the sensitive features, ``y_true``, ``y_pred`` and ``n``.

        As always in pandas, whole numbers are floats where one of them is missing.
        """
        names = [*(self._features or []), "y_true", "y_pred", "n"]
        return pd.DataFrame([(*cell, n) for cell, n in self._counts.items()], columns=names)

    def _add(self, names: Iterable[str], counts: Iterable[tuple[Cell, int]]) -> "CellCounts":
        features = list(names)
        if self._features not in (None, features):
            raise ValueError(
                f"`sensitive_features` must have the columns {self._features} as before, got "
                f"{features}."
            )
        self._features = features
        for cell, n in counts:
            self._counts[cell] += n
        if len(self._counts) > _MAX_CELLS:
            n_values = {
                name: len(set(values))
                for name, values in zip(
                    [*features, "y_true", "y_pred"], zip(*self._counts, strict=True), strict=True
                )
            }
            most = max(n_values, key=n_values.__getitem__)
            raise ValueError(
                f"There are more than {_MAX_CELLS:,} different cells: `{most}` has "
                f"{n_values[most]:,} values. Name columns that make groups and labels, or bin it."
            )
        return self


def _count(columns: Sequence["pd.Series[Any]"]) -> Iterator[tuple[Cell, int]]:
    """Yield each combination of values that occurs, and its rows; what is missing is None."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    cells: list[Cell] = [()]
    for column in columns:
        at, found = pd.factorize(column, use_na_sentinel=False)
        levels = [None if pd.isna(level) else level for level in found]  # NaN is no key
        # Counted on from the combinations that occur, so that codes stay below rows times levels.
        codes, pairs = pd.factorize(codes * len(levels) + at)
        cells = [(*cells[pair // len(levels)], levels[pair % len(levels)]) for pair in pairs]
    yield from zip(cells, np.bincount(codes).tolist(), strict=True)
