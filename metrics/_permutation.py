"""Temporary."""

from typing import NamedTuple

import numpy as np

from ._rates import Floats, Ints, divide


class RowSet(NamedTuple):
    """Rows that are shuffled among the groups: values (N, M), codes (N,), weights (N,) or None."""

    values: Floats
    codes: Ints
    weights: Floats | None


def _spread(shares):
    return np.ptp(shares, axis=-2).max(-1)


def gap_p(tables, n_draws, rng):
    tables = [np.asarray(t, dtype=np.int64) for t in tables]
    tables = [t for t in tables if t.sum()]
    if any((t.sum(1) == 0).any() for t in tables):
        return float("nan")
    found = max(_spread(t / t.sum(1, keepdims=True)) for t in tables)
    draws = np.full(n_draws, -np.inf)
    for t in tables:
        outcomes = np.repeat(np.arange(t.shape[1]), t.sum(0))
        codes = np.repeat(np.arange(t.shape[0]), t.sum(1))
        if t.shape[1] == 2:
            s = rng.multivariate_hypergeometric(t.sum(1), t.sum(0)[0], n_draws, method="marginals")
            draws = np.maximum(draws, np.ptp(s / t.sum(1), axis=1))
            continue
        for i in range(n_draws):
            cells = np.bincount(
                codes * t.shape[1] + rng.permutation(outcomes), minlength=t.size
            ).reshape(t.shape)
            draws[i] = max(draws[i], _spread(cells / t.sum(1, keepdims=True)))
    return float((1 + (draws >= found - 1e-12).sum()) / (1 + n_draws))


def row_gap_p(sets, n_groups, n_draws, rng):
    n_draws = min(n_draws, 200)

    def stat(values, codes, weights):
        w = np.ones(len(codes)) if weights is None else weights
        total = np.bincount(codes, w, n_groups)
        return max(np.ptp(divide(np.bincount(codes, w * v, n_groups), total)) for v in values.T)

    found = max(stat(*s) for s in sets)
    if np.isnan(found):
        return float("nan")
    n = sum(
        max(stat(s.values[rng.permutation(len(s.values))], s.codes, s.weights) for s in sets)
        >= found - 1e-12
        for _ in range(n_draws)
    )
    return (1 + n) / (1 + n_draws)
