"""Rates as functions of the (group, label, prediction) cells.

A tally has the shape (..., C, C): label, then prediction. With two labels 1 is the favourable one,
and the rates of one class of several are those of that class against the rest.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._sizes import effective_size

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# rate: (the cells [label][prediction] that count as a success, the cells that are looked at)
_ALL = ((1, 1), (1, 1))
RATES = {
    "base_rate": (((0, 0), (1, 1)), _ALL),
    "accuracy": (((1, 0), (0, 1)), _ALL),
    "selection_rate": (((0, 1), (0, 1)), _ALL),
    "tpr": (((0, 0), (0, 1)), ((0, 0), (1, 1))),
    "fpr": (((0, 1), (0, 0)), ((1, 1), (0, 0))),
    "fnr": (((0, 0), (1, 0)), ((0, 0), (1, 1))),
    "precision": (((0, 0), (0, 1)), ((0, 1), (0, 1))),
}


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows of each cell, and sums of their weights and squared weights; equal without weights."""

    n: Floats
    weight: Floats
    square: Floats

    def at(self, index: int | slice) -> "Tally":
        """Return a part of the leading dimension."""
        return Tally(self.n[index], self.weight[index], self.square[index])

    def against_rest(self, label: int, n_axes: int = 2) -> "Tally":
        """Return the tally of one label against all others: the last axes get the length 2."""

        def fold(cells: Floats) -> Floats:
            for axis in range(-n_axes, 0):
                own = cells.take(label, axis)
                cells = np.stack([cells.sum(axis) - own, own], axis)
            return cells

        return Tally(*(fold(part) for part in (self.n, self.weight, self.square)))


class Share(NamedTuple):
    """A weighted share of rows, (...): successes over trials."""

    successes: Floats
    trials: Floats
    size: Floats  # rows of weight 1 that would be as sure
    n: Ints  # rows looked at

    @property
    def value(self) -> Floats:
        """The share, NaN where no row is looked at."""
        return divide(self.successes, self.trials)


def share(tally: Tally, rate: str) -> Share:
    """Return one of `RATES` of a tally with two labels."""
    success, looked_at = (np.array(mask) for mask in RATES[rate])
    return masked_share(tally, success, looked_at)


def masked_share(tally: Tally, success: Ints, looked_at: Ints) -> Share:
    """Return the share of the cells marked in `success` in those marked in `looked_at`, (C, C)."""

    def total(cells: Floats, mask: Ints) -> Floats:
        return np.asarray((cells * mask).sum((-2, -1)))

    successes, trials = total(tally.weight, success), total(tally.weight, looked_at)
    squares = total(tally.square, success), total(tally.square, looked_at)
    return Share(
        successes,
        trials,
        size=effective_size(successes, trials, *squares),
        n=total(tally.n, looked_at).astype(np.int64),
    )


def accuracy(tally: Tally) -> Share:
    """Return the share of the rows whose prediction is their label."""
    c = tally.n.shape[-1]
    return masked_share(tally, np.eye(c, dtype=np.int64), np.ones((c, c), dtype=np.int64))


def divide(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Floats:
    """Divide; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, np.true_divide(numerator, denominator))


def balanced_accuracy(tally: Tally) -> Floats:
    """Return the mean recall of all rows, (); of several labels, of those that rows have."""
    occurs = (tally.n.sum(-1) > 0) | (tally.n.shape[-1] == 2)
    return np.asarray(recalls(tally.weight)[occurs].mean())


def recalls(counts: Floats) -> Floats:
    """Return the recall of each label, (..., C), from (..., C, C)."""
    return divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1))
