"""Temporary."""

import numpy as np
from scipy import special

from ._intervals import Interval


def cell_replicates(counts, n_boot, rng, n_eff=None):
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(-1)
    if total == 0:
        return np.zeros((n_boot, *counts.shape))
    n = total if n_eff is None else n_eff
    return rng.multinomial(round(n), counts / total, size=n_boot) * (total / n)


def row_replicates(moments, n_boot, rng):
    n = len(moments)
    if n == 0:
        return np.full((n_boot, moments.shape[1]), np.nan)
    if n > 500:
        return rng.multivariate_normal(
            moments.mean(0), np.atleast_2d(np.cov(moments.T)) / n, size=n_boot, check_valid="ignore"
        )
    return np.stack([moments[rng.integers(0, n, n)].mean(0) for _ in range(n_boot)])


def percentile(estimate, replicates, confidence, n_rows):
    n_rows = float(n_rows)
    if not n_rows >= 2 or np.isnan(estimate) or np.isnan(replicates).mean() > 0.05:
        return Interval(estimate, np.nan, np.nan)
    t = special.stdtrit(n_rows - 1, (1 - confidence) / 2)
    alpha = special.ndtr(np.sqrt(n_rows / (n_rows - 1)) * t)
    low, high = np.nanquantile(replicates, [alpha, 1 - alpha], axis=0)
    return Interval(estimate, np.minimum(low, estimate), np.maximum(high, estimate))
