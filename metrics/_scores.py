"""Figures of a score by group: AUC, Brier score, calibration error."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._intervals import Interval, normal
from ._rates import divide

Floats = NDArray[np.float64]

_N_BINS = 10


def auc_components(labels: NDArray[np.int64], scores: Floats) -> tuple[Floats, Floats]:
    """Return what each positive (m,) and each negative row (n,) adds to the AUC.

    A positive row's component is the share of negative rows below it, ties half; the AUC is the
    mean of either. Empty where a label has no rows.

    Source:
        DeLong et al. (1988), https://doi.org/10.2307/2531595, by the mid-ranks of X. Sun, W. Xu
        (2014), https://doi.org/10.1109/LSP.2014.2337313.
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return np.empty(0), np.empty(0)
    ranks = _ranks(np.concatenate([positive, negative]))
    return (ranks[:m] - _ranks(positive)) / n, 1 - (ranks[m:] - _ranks(negative)) / m


def auc_and_variance(components: tuple[Floats, Floats]) -> tuple[float, float]:
    """Return the AUC and DeLong's variance of it, NaN with fewer than two rows of a label."""
    if len(components[0]) == 0:
        return float("nan"), float("nan")
    return float(components[0].mean()), sum(variance_of_mean(part) for part in components)


def variance_of_mean(values: Floats) -> float:
    """Return the squared standard error, NaN for fewer than two values."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else float("nan")


def score_intervals(
    labels: NDArray[np.int64], scores: Floats, codes: NDArray[np.int64], n_groups: int, z: float
) -> dict[str, Interval]:
    """Return auc, brier and ece, each (1 + K,): of all rows, then of each group.

    Brier score and calibration error are NaN unless every score is in [0, 1]. The calibration error
    compares mean score and base rate in ten bins of equal width; it has no interval, because it is
    biased upwards by an amount that shrinks with the number of rows.
    """
    is_probability = bool(((scores >= 0) & (scores <= 1)).all())
    rows = []
    for part in parts(codes, n_groups):
        y, score = labels[part], scores[part]
        error = (score - y) ** 2 if is_probability else np.empty(0)
        brier = float(error.mean()) if len(error) else float("nan")
        ece = _calibration_error(y, score) if len(error) else float("nan")
        auc, auc_variance = auc_and_variance(auc_components(y, score))
        rows.append((auc, auc_variance, brier, variance_of_mean(error), ece))
    auc_, auc_var, brier_, brier_var, ece_ = np.array(rows).T
    unknown = np.full_like(ece_, np.nan)
    return {
        "auc": normal(auc_, auc_var, z),
        "brier": normal(brier_, brier_var, z),
        "ece": Interval(ece_, unknown, unknown),
    }


def parts(codes: NDArray[np.int64], n_groups: int) -> Iterator[NDArray[np.int64] | slice]:
    """Yield what selects all rows, then the rows of each group."""
    yield slice(None)
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(n_groups + 1))
    for start, end in pairwise(edges):
        yield order[start:end]


def _calibration_error(labels: NDArray[np.int64], scores: Floats) -> float:
    bins = np.minimum((scores * _N_BINS).astype(np.int64), _N_BINS - 1)
    n = np.bincount(bins, minlength=_N_BINS)
    gap = np.bincount(bins, weights=scores - labels, minlength=_N_BINS)
    return float(np.nansum(np.abs(divide(gap, n)) * n) / len(labels))


def _ranks(values: Floats) -> Floats:
    return np.asarray(pd.Series(values).rank(), dtype=np.float64)
