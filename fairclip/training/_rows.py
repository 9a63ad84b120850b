"""The rows that an estimator is given. Shapes: N rows, d features, B rows of a batch."""

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_consistent_length
from torch import Tensor


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
    return SparseRows(X) if issparse(X) else torch.tensor(X)  # a copy: X may be read-only


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
            weights = weights * self.weights
        if weights.min() < 0 or weights.max() == 0:
            raise ValueError(
                "The weights of rows and classes must not be negative, and not all zero."
            )
        rows = type(self)(self.X, self.y, self.sensitive_features, weights)
        return rows if weights.all() else rows._take(np.flatnonzero(weights))

    def split(self, fraction: float, seed: int, *, by_label: bool) -> tuple[Self, Self]:
        """Return the rows without a share that is drawn at random, and that share."""
        kept, drawn = train_test_split(
            np.arange(len(self.y)),
            test_size=fraction,
            stratify=self.y if by_label else None,
            random_state=seed,
        )
        return self._take(kept), self._take(drawn)

    def scaled_weights(self) -> Tensor | None:
        """Return the weights with a mean of 1, ``(N,)`` float32."""
        if self.weights is None:
            return None
        return torch.from_numpy(np.float32(self.weights / self.weights.mean()))

    def _take(self, rows: NDArray[np.int64]) -> Self:
        def taken(part: Any) -> Any:
            return None if part is None else _safe_indexing(part, rows)

        sensitive_features = taken(self.sensitive_features)
        return type(self)(taken(self.X), taken(self.y), sensitive_features, taken(self.weights))
