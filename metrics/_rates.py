"""Rates as functions of the (group, label, prediction) cell counts.

Counts have the shape (..., 2, 2): label, then prediction, 1 = favourable.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]

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


def cell_counts(codes: Counts, labels: Counts, predictions: Counts, n_groups: int) -> Counts:
    """Count the rows of each cell, (1 + K, 2, 2); the first entry is of the unknown rows."""
    cells = (codes + 1) * 4 + labels * 2 + predictions
    return np.bincount(cells, minlength=4 * (n_groups + 1)).reshape(-1, 2, 2)


def successes_and_trials(counts: Counts, rate: str) -> tuple[Counts, Counts]:
    """Return numerator and denominator of a rate, each (...)."""
    success, looked_at = (np.array(mask) for mask in RATES[rate])
    return (counts * success).sum((-2, -1)), (counts * looked_at).sum((-2, -1))


def divide(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Rates:
    """Divide; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, np.true_divide(numerator, denominator))


def rate(counts: Counts, name: str) -> Rates:
    """Return one rate, (...); NaN where no row is looked at."""
    return divide(*successes_and_trials(counts, name))


def balanced_accuracy(counts: Counts) -> Rates:
    """Return (tpr + 1 - fpr) / 2, NaN where a label has no rows."""
    return (rate(counts, "tpr") + 1 - rate(counts, "fpr")) / 2
