"""Values that are shuffled over the rows of groups, and the spread of the groups' means."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._rates import Floats, Ints

_MAX_SHUFFLED = 5_000  # rows of a set
_MAX_SMALL = 500  # rows of a group


class RowSet(NamedTuple):
    """Rows that are shuffled among the groups: values (N, M), codes (N,), weights (N,) or None."""

    values: Floats
    codes: Ints
    weights: Floats | None


@dataclass(frozen=True, slots=True)
class Slots:
    """The rows of a set in the order of their groups; groups and weights stay, values move.

    Attributes:
        values: Of each row, (N, M).
        weights: Of each row, (N,).
        sizes: Rows of each group, (K,).
        total: Weight of each group, (K,).
    """

    values: Floats
    weights: Floats
    sizes: Ints
    total: Floats

    @classmethod
    def of(cls, rows: RowSet, n_groups: int) -> "Slots":
        """Return the slots of a set."""
        n = len(rows.codes)
        weights = np.ones(n, dtype=np.float64) if rows.weights is None else rows.weights
        order = np.argsort(rows.codes, kind="stable")
        return cls(
            rows.values[order],
            weights[order],
            np.bincount(rows.codes, minlength=n_groups),
            np.asarray(np.bincount(rows.codes, weights=weights, minlength=n_groups), np.float64),
        )

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """Whether the rows of a group are drawn one by one, (K,), or their mean from its limit."""
        return (self.sizes <= _MAX_SMALL) | (len(self.values) <= _MAX_SHUFFLED)

    @property
    def cost(self) -> int:
        """Numbers that one draw takes."""
        rows = int(np.where(self.drawn, self.sizes, 1).sum())
        return rows * len(self.values[0])

    def spread(self) -> float:
        """Return the largest spread of the groups' means."""
        means = self._means(self.values[None], np.ones(len(self.sizes), dtype=np.bool_))
        return float(_spread(means)[0])

    def shuffled_spreads(self, n_draws: int, rng: np.random.Generator) -> Floats:
        """Return the largest spread of each of some shuffles, (n_draws,)."""
        n, m = self.values.shape
        if n <= _MAX_SHUFFLED:
            order = rng.permuted(np.broadcast_to(np.arange(n), (n_draws, n)), axis=1)
            return _spread(self._means(self.values[order], self.drawn))
        means = np.empty((n_draws, len(self.sizes), m))
        small = self.drawn
        if small.any():
            order = rng.integers(0, n, (n_draws, int(self.sizes[small].sum())))
            means[:, small] = self._means(self.values[order], small)
        squares = np.add.reduceat(self.weights**2, self._starts(self.sizes))
        errors = np.sqrt(squares) / self.total
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(self.values.T)))
        root = vectors * np.sqrt(np.maximum(values, 0))
        noise = rng.standard_normal((n_draws, int((~small).sum()), m)) @ root.T
        means[:, ~small] = self.values.mean(0) + noise * errors[~small, None]
        return _spread(means)

    def _means(self, values: Floats, groups: NDArray[np.bool_]) -> Floats:
        """Return the means of these groups, (n_draws, groups, M), of values of all their rows."""
        weights = self.weights[np.repeat(groups, self.sizes)]
        starts = self._starts(self.sizes[groups])
        sums = np.add.reduceat(values * weights[:, None], starts, axis=1)
        return np.asarray(sums / self.total[groups][:, None])

    @staticmethod
    def _starts(sizes: Ints) -> Ints:
        return np.cumsum(sizes) - sizes


def _spread(means: Floats) -> Floats:
    """Return the largest max - min over the groups of any column, (n_draws,)."""
    return np.asarray(np.ptp(means, axis=1).max(-1))
