"""What every figure starts from: encoded labels and groups."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._groups import Groups, encode_groups
from ._labels import Labels, encode_labels
from ._rates import cell_counts


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows with a label and a group each."""

    labels: Labels
    groups: Groups
    present: NDArray[np.int64]  # codes of the groups that have rows
    names: tuple[str, ...]  # of those groups

    def counts(self, predictions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the cells: all rows first, then each present group, (1 + K, 2, 2)."""
        n_groups = len(self.groups.names)
        cells = cell_counts(self.groups.codes, self.labels.codes, predictions, n_groups)
        return np.concatenate([cells.sum(0, keepdims=True), cells[1:][self.present]])

    @property
    def codes(self) -> NDArray[np.int64]:
        """Codes among the present groups, (N,); -1 = unknown."""
        position = np.full(len(self.groups.names) + 1, -1)
        position[self.present] = np.arange(len(self.present))
        return position[self.groups.codes]

    @property
    def present_index(self) -> pd.Index:
        """The levels of the present groups, (K,)."""
        return self.groups.index[self.present]

    @property
    def n_unknown(self) -> int:
        """Rows that lack a sensitive feature."""
        return int((self.groups.codes < 0).sum())


def encode_rows(y_true: Any, sensitive_features: Any, favourable: Any = None) -> Rows:
    """Check and encode what the models have in common."""
    labels = encode_labels(y_true, favourable)
    groups = encode_groups(sensitive_features, len(labels.codes))
    present = np.unique(groups.codes[groups.codes >= 0])
    if len(present) == 0:
        raise ValueError("`sensitive_features` have a missing value in every row.")
    return Rows(labels, groups, present, tuple(groups.names[code] for code in present))
