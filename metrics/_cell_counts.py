"""Rows of each (group, label, prediction) cell: additive, so that rows may come in parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ._batches import read_batches
from ._groups import feature_frame
from ._labels import as_column, check_length


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
        [1, 1, 2]
        >>> audit_counts(counts, n_boot=99).by_group["accuracy"].to_dict()
        {'f': 0.5, 'm': 1.0}
    """

    def __init__(self) -> None:
        self._features: list[str] | None = None
        self._counts = pd.Series(dtype="int64")  # indexed by features, label and prediction

    def update(self, y_true: Any, y_pred: Any, *, sensitive_features: Any) -> "CellCounts":
        """Add rows.

        Args:
            y_true: The label of each row, as in `audit`.
            y_pred: The prediction for each row.
            sensitive_features: As in `audit`; the same columns each time.

        Returns:
            Itself.

        Raises:
            ValueError: If lengths differ, labels or predictions are missing, or the columns are
                others than before.
        """
        truth, prediction = as_column(y_true, "y_true"), as_column(y_pred, "y_pred")
        check_length(len(prediction), len(truth), "y_pred")
        features = feature_frame(sensitive_features)
        check_length(len(features), len(truth), "sensitive_features")
        columns = [features.iloc[:, i].reset_index(drop=True) for i in range(features.shape[1])]
        keys = pd.concat([*columns, truth, prediction], axis=1).set_axis(
            range(len(columns) + 2), axis=1
        )
        counts = keys.groupby(list(keys), dropna=False, observed=True, sort=False).size()
        return self._add([str(name) for name in features.columns], counts)

    def merge(self, other: "CellCounts") -> "CellCounts":
        """Add the rows of other counts.

        Args:
            other: Counts with the same sensitive features.

        Returns:
            Itself.

        Raises:
            ValueError: If the columns are others.
        """
        return self if other._features is None else self._add(other._features, other._counts)

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
        counts = cls()
        names = [*sensitive_features, y_true, y_pred]
        for batch in read_batches(path, names, progress=progress):
            counts.update(
                batch[y_true], batch[y_pred], sensitive_features=batch[list(sensitive_features)]
            )
        return counts

    def to_frame(self) -> pd.DataFrame:
        """Return one row a cell: the sensitive features, ``y_true``, ``y_pred`` and ``n``."""
        if self._features is None:
            return pd.DataFrame(columns=["y_true", "y_pred", "n"])
        names = [*self._features, "y_true", "y_pred"]
        frame = self._counts.rename_axis(names).rename("n").reset_index(allow_duplicates=True)
        return frame

    def _add(self, features: list[str], counts: "pd.Series[int]") -> "CellCounts":
        if self._features is None:
            self._features, self._counts = features, counts
            return self
        if features != self._features:
            raise ValueError(
                f"`sensitive_features` must have the columns {self._features} as before, got "
                f"{features}."
            )
        both = pd.concat([self._counts, counts])
        levels = list(range(both.index.nlevels))
        self._counts = both.groupby(level=levels, dropna=False, observed=True, sort=False).sum()
        return self
