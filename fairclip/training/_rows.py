"""The rows that an estimator is given. Shapes: N rows, d features, B rows of a batch."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_consistent_length
from torch import Tensor

from fairclip.exceptions import FairclipWarning
from fairclip.groups import GroupEncoder


class SparseRows:
    """The rows of a matrix in CSR form, dense only where they are taken out.

    Shape:
        - ``matrix``: ``(N, d)``. What is taken out: ``(B, d)``.
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self.shape: tuple[int, int] = matrix.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        taken = self._matrix[rows.numpy() if isinstance(rows, Tensor) else rows]
        return torch.from_numpy(taken.toarray())


Inputs: TypeAlias = Tensor | SparseRows


def as_inputs(X: Any) -> Inputs:
    """Return a matrix, an array or in CSR form, as the rows for a module."""
    if issparse(X):
        return SparseRows(X)
    return torch.tensor(X, device="cpu")  # a copy: X may be read-only


@dataclass(frozen=True)
class Rows:
    """What one call of ``fit`` is about.

    Args:
        X: ``(N, d)`` float32, an array or in CSR form.
        y: ``(N,)`` labels or numbers.
        sensitive_features: N rows, as the user has them; None if there are none.
        weights: ``(N,)``; None: all 1.
    """

    X: Any
    y: NDArray[Any]
    sensitive_features: Any = None
    weights: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        check_consistent_length(self.X, self.y, self.sensitive_features)

    def times(self, weights: NDArray[np.float64]) -> Self:
        """Return the rows that still weigh something after they are weighted.

        Raises:
            ValueError: If a weight is negative, or none is positive.
        """
        if self.weights is not None:
            weights = weights * self.weights / self.weights.max()  # nothing overflows
        if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
            raise ValueError(
                "The weights of rows and classes must be finite, not negative, and not all zero."
            )
        rows = type(self)(self.X, self.y, self.sensitive_features, weights)
        return rows if weights.all() else rows._take(np.flatnonzero(weights))

    def split(self, fraction: float, seed: int, *, with_labels: bool) -> tuple[Self, Self]:
        """Return the rows without a share that is drawn at random, and that share.

        It is drawn from each group, and each label of a group ``with_labels``, as far as there are
        two rows of it and the share has room for a row of each.
        """
        strata = np.zeros(len(self.y), dtype=np.int64)
        if with_labels:
            strata = np.unique(self.y, return_inverse=True)[1]
        finer = self._groups(strata)
        n_held_back = math.ceil(fraction * len(self.y))
        if len(np.unique(finer)) <= min(n_held_back, len(self.y) - n_held_back):
            strata = finer
        kept, drawn = train_test_split(
            np.arange(len(self.y)),
            test_size=fraction,
            stratify=strata if strata.any() else None,
            random_state=seed,
        )
        return self._take(kept), self._take(drawn)

    def _groups(self, strata: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the strata split by group; groups of one row in a stratum stay together there."""
        if self.sensitive_features is None:
            return strata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FairclipWarning)  # training says it
            encoder = GroupEncoder().fit(self.sensitive_features)
            groups = encoder.transform(self.sensitive_features) + 1
        cells = strata * (groups.max() + 1) + groups
        alone = np.bincount(cells)[cells] < 2
        largest = [np.bincount(cells[strata == one]).argmax() for one in range(strata.max() + 1)]
        return np.where(alone, np.array(largest)[strata], cells)

    def scaled_weights(self) -> Tensor | None:
        """Return the weights with a mean of 1, ``(N,)`` float32."""
        if self.weights is None:
            return None
        weights = self.weights / self.weights.max()  # whose sum is finite
        return torch.from_numpy(np.float32(weights / weights.mean()))

    def _take(self, rows: NDArray[np.int64]) -> Self:
        def taken(part: Any) -> Any:
            return None if part is None else _safe_indexing(part, rows)

        sensitive_features = taken(self.sensitive_features)
        return type(self)(taken(self.X), taken(self.y), sensitive_features, taken(self.weights))
