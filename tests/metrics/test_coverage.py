"""What the intervals, bounds and tests of an audit promise, by exact sums or by simulation."""

from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

intervals: Any = import_module("fairclip.metrics._intervals")
bootstrap: Any = import_module("fairclip.metrics._bootstrap")
permutation: Any = import_module("fairclip.metrics._permutation")
rates: Any = import_module("fairclip.metrics._rates")
figures: Any = import_module("fairclip.metrics._figures")
effective_size: Any = import_module("fairclip.metrics._sizes").effective_size
mean_intervals: Any = import_module("fairclip.metrics._means").mean_intervals
rate_change: Any = import_module("fairclip.metrics._paired").rate_change
auc_and_influence: Any = import_module("fairclip.metrics._scores").auc_and_influence

Floats = NDArray[np.float64]
Z = intervals.two_sided(0.95)


def _covers(found: Any, true: Any) -> Any:
    return (found.low <= true + 1e-12) & (true - 1e-12 <= found.high)


def _shares(n: int, p: float) -> tuple[Any, Floats]:
    """Return Wilson's interval of every number of successes that can be expected, and its odds."""
    first, last = stats.binom.ppf([1e-9, 1 - 1e-9], n, p)
    k = np.arange(first, last + 1, dtype=np.int64)
    return intervals.wilson(k, np.full_like(k, n), Z), stats.binom.pmf(k, n, p)


# Shares


@pytest.mark.parametrize("n", [*range(5, 31), 50, 100, 300, 1000])
def test_shares_averaged_over_p(n: int) -> None:
    p = np.linspace(0.1, 0.9, 201)
    k = np.arange(n + 1)
    covers = _covers(intervals.wilson(k, np.full_like(k, n), Z), p[:, None])
    coverage = (stats.binom.pmf(k, n, p[:, None]) * covers).sum(1)  # exact
    assert 0.93 < coverage.mean() < 0.97
    assert coverage.min() > 0.89


@pytest.mark.parametrize(
    ("success", "weight", "mix"),
    [
        ([0.3, 0.3], [1, 4], [0.5, 0.5]),  # weights that have nothing to do with it
        ([0.5, 0.9], [1, 9], [0.5, 0.5]),
        ([0.9, 0.7], [1, 9], [0.5, 0.5]),
        ([0.1, 0.6], [1, 20], [0.9, 0.1]),
        ([1.0, 0.0], [9, 1], [0.05, 0.95]),  # Kish's size alone: 0.85
        ([0.0, 1.0], [9, 1], [0.05, 0.95]),
    ],
)
def test_shares_of_weighted_rows(
    success: list[float], weight: list[float], mix: list[float]
) -> None:
    """Two strata; the bound errs on the safe side where the frequent outcome has the weight."""
    rng = np.random.default_rng(0)
    stratum = (rng.random((4000, 400)) < mix[1]).astype(np.int64)
    y, w = rng.random(stratum.shape) < np.array(success)[stratum], np.array(weight)[stratum]
    size = effective_size((w * y).sum(1), w.sum(1), (w**2 * y).sum(1), (w**2).sum(1))
    found = intervals.wilson((w * y).sum(1), w.sum(1), Z, size)
    true = np.average(success, weights=np.multiply(weight, mix))
    assert _covers(found, true).mean() > 0.93


# Differences and ratios

_GRID = [
    (n, p)
    for n in (20, 30, 50, 100, 1000)
    for p in (0.01, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.99)
    if n * min(p, 1 - p) >= 10 - 1e-9
]


@pytest.mark.parametrize("kind", ["difference", "ratio"])
def test_two_groups(kind: str) -> None:
    """Where 10 rows or more of either outcome are expected in both groups."""
    coverage = []
    for (n1, p1), (n2, p2) in product(_GRID, _GRID):
        (a, odds_a), (b, odds_b) = _shares(n1, p1), _shares(n2, p2)
        found = getattr(intervals, kind)(
            intervals.Interval(*(part[:, None] for part in a)),
            intervals.Interval(*(part[None] for part in b)),
        )
        true = p1 - p2 if kind == "difference" else p1 / p2
        coverage.append(odds_a @ _covers(found, true) @ odds_b)  # exact
    assert len(coverage) == 625
    assert 0.93 < min(coverage) <= max(coverage) < 0.97


@pytest.mark.parametrize(("n1", "p1", "n2", "p2"), [(12, 0.95, 2000, 0.85), (15, 0.3, 200, 0.1)])
def test_two_groups_of_which_one_is_small(n1: int, p1: float, n2: int, p2: float) -> None:
    """The percentile bootstrap covers 0.46 of the time in the first of these cases."""
    (a, odds_a), (b, odds_b) = _shares(n1, p1), _shares(n2, p2)
    pair = [
        intervals.Interval(*(part[:, None] for part in a)),
        intervals.Interval(*(part[None] for part in b)),
    ]
    difference = odds_a @ _covers(intervals.difference(*pair), p1 - p2) @ odds_b
    ratio = odds_a @ _covers(intervals.ratio(*pair), p1 / p2) @ odds_b
    assert 0.92 < difference < 0.98
    assert 0.92 < ratio < 0.98


_PAIRED = [
    (n, changed, share)
    for n in (20, 50, 100, 1000, 10_000)
    for changed in (10, 15, 30, 100, 500)
    if changed <= 0.6 * n
    for share in (0.5, 0.7, 0.9, 1.0)
]


def _paired_coverage(n: int, changed: float, share: float) -> float:
    rng = np.random.default_rng(0)
    gained, lost = changed * share / n, changed * (1 - share) / n
    kept = (1 - gained - lost) / 2
    cells = rng.multinomial(n, [kept, gained, lost, kept], 20_000).reshape(-1, 1, 2, 2)
    counts = np.concatenate([np.zeros_like(cells), cells], axis=1).astype(np.float64)
    found = rate_change(rates.Tally(counts, counts, counts), "tpr", Z)
    return float(_covers(found, gained - lost).mean())


def test_paired_differences() -> None:
    """Where 10 changed rows or more are expected, whichever way most of them change."""
    coverage = [_paired_coverage(*case) for case in _PAIRED]
    assert 0.92 < min(coverage) <= max(coverage) < 0.98


def test_paired_differences_of_few_changed_rows_fall_short_or_are_too_long() -> None:
    assert _paired_coverage(100, 2, 1.0) == pytest.approx(0.865, abs=0.02)
    assert _paired_coverage(1000, 2, 0.5) > 0.98


# Means over labels, by drawn cells


@pytest.mark.parametrize(
    ("n", "base", "recall"),
    [
        (100, [0.5, 0.5], [0.8, 0.8]),
        (300, [0.9, 0.1], [0.9, 0.65]),
        (300, [0.6, 0.3, 0.1], [0.85, 0.7, 0.6]),
        (300, [0.1] * 10, [0.7] * 10),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_macro_averages(n: int, base: list[float], recall: list[float], weighted: bool) -> None:
    """Balanced accuracy, precision and F1; weighted rows carry the inverse of their label's."""
    rng = np.random.default_rng(0)
    c, n_simulations = len(base), 600 if len(base) < 10 else 300
    wrong = (1 - np.array(recall)) / (c - 1)
    given = np.where(np.eye(c, dtype=np.bool_), np.array(recall)[:, None], wrong[:, None])
    p = np.array(base)[:, None] * given
    rows = rng.multinomial(n, p.ravel(), n_simulations).astype(np.float64)
    weight = np.repeat(1 / (c * np.array(base)) if weighted else np.ones(c), c)
    counts, every = rows * weight, np.ones(c, dtype=np.bool_)
    true = figures.macro_averages(p * weight.reshape(c, c), every)
    drawn = bootstrap.cell_replicates(counts, 400, rng, squares=rows * weight**2)
    estimates = figures.macro_averages(counts.reshape(-1, c, c), every)
    replicates = figures.macro_averages(drawn.reshape(400, -1, c, c), every)
    rarest = rows.reshape(-1, c, c).sum(-1).min(-1)
    for name, estimate in estimates.items():
        found = bootstrap.percentile(estimate, replicates[name], 0.95, rarest)
        assert np.isnan(found.low).mean() < 0.05
        known = ~np.isnan(found.low)
        assert 0.92 < _covers(found, true[name])[known].mean() < 0.98, name


# Means over rows


def _errors(kind: str, size: tuple[int, int]) -> tuple[Floats, float, float]:
    """Return errors of mean 0, their mean absolute value and their mean square."""
    rng = np.random.default_rng(1)
    if kind == "normal":
        return rng.normal(size=size), np.sqrt(2 / np.pi), 1
    if kind == "laplace":
        return rng.laplace(size=size), 1, 2
    if kind == "skewed":
        return rng.exponential(size=size) - 1, 2 / np.e, 1
    mean = np.exp(0.5)  # log-normal
    absolute = 2 * mean * (2 * stats.norm.cdf(0.5) - 1)
    return np.exp(rng.normal(size=size)) - mean, absolute, (np.e - 1) * np.e


def _mean_coverage(rows: Floats, true: float, weights: Floats | None = None) -> float:
    """Every column is a data set of its own."""
    rng = np.random.default_rng(2)
    found = mean_intervals(rows, weights, 1500, rng, 0.95)
    return float(_covers(found, true).mean())


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("kind", ["normal", "laplace", "skewed"])
def test_means_of_errors(kind: str, n: int) -> None:
    errors, absolute, square = _errors(kind, (n, 1000))
    assert 0.92 < _mean_coverage(np.abs(errors), absolute) < 0.98
    assert 0.92 < _mean_coverage(errors, 0) < 0.98
    root = _mean_coverage(errors**2, square)
    if n == 50 and kind != "normal":  # so few rows do not show the tail of squares
        assert root == pytest.approx({"laplace": 0.92, "skewed": 0.895}[kind], abs=0.025)
    else:
        assert 0.92 < root < 0.98


@pytest.mark.parametrize("n", [4, 8, 14, 15, 25])
def test_means_of_few_errors(n: int) -> None:
    errors, absolute, _ = _errors("normal", (n, 1000))
    assert 0.92 < _mean_coverage(np.abs(errors), absolute) < 0.98


def test_means_of_many_errors() -> None:
    """Of more rows than are drawn one by one."""
    errors, absolute, square = _errors("skewed", (2500, 600))
    for rows, true in ((np.abs(errors), absolute), (errors**2, square)):
        assert 0.92 < np.mean([_mean_coverage(one[:, None], true) for one in rows.T]) < 0.98


def test_a_tail_that_the_rows_do_not_show() -> None:
    errors, absolute, square = _errors("log-normal", (50, 1000))
    assert _mean_coverage(np.abs(errors), absolute) == pytest.approx(0.89, abs=0.025)
    assert _mean_coverage(errors**2, square) == pytest.approx(0.82, abs=0.03)


@pytest.mark.parametrize("n", [50, 200])
def test_losses_of_scores(n: int) -> None:
    """Calibrated scores of an even and of a rare label."""
    rng = np.random.default_rng(3)
    for a, b in ((2, 2), (1, 6)):
        p = rng.beta(a, b, (n, 1000))
        y = rng.random(p.shape) < p
        many = rng.beta(a, b, 1_000_000)
        brier, entropy = (many * (1 - many)).mean(), special.entr([many, 1 - many]).sum(0).mean()
        assert 0.92 < _mean_coverage((p - y) ** 2, brier) < 0.98
        assert 0.92 < _mean_coverage(-np.log(np.where(y, p, 1 - p)), entropy) < 0.98


@pytest.mark.parametrize("n", [100, 200])
def test_means_of_weighted_rows(n: int) -> None:
    rng = np.random.default_rng(4)
    weights = rng.gamma(2, size=n)
    errors, absolute, _ = _errors("laplace", (n, 1000))
    assert 0.92 < _mean_coverage(np.abs(errors), absolute, weights) < 0.98


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_explained_variance(kind: str, n: int) -> None:
    n_simulations = 1000
    rng = np.random.default_rng(5)
    errors, _, square = _errors(kind, (n, n_simulations))
    y = rng.normal(0, 2, errors.shape) + errors
    moments = np.concatenate([errors**2, y, y**2], axis=1)
    every = np.concatenate([moments.mean(0)[None], bootstrap.row_replicates(moments, 1000, rng)])
    error, mean, mean_square = np.split(every, 3, axis=1)
    r2 = 1 - error / (mean_square - mean**2)
    found = bootstrap.percentile(r2[0], r2[1:], 0.95, n)
    assert 0.92 < _covers(found, 1 - square / (4 + square)).mean() < 0.98


# AUC


def _auc_coverage(m: int, n: int, auc: float, scale: float = 1) -> tuple[float, float]:
    """Return the coverage of the logit and of the symmetric interval, m positive rows, n others."""
    rng = np.random.default_rng(6)
    truth = np.repeat([1, 0], [m, n])
    shift = stats.norm.ppf(auc) * np.sqrt(1 + scale**2)
    value, parts = [], []
    for _ in range(1500):
        scores = np.concatenate([rng.normal(shift, scale, m), rng.normal(size=n)])
        found, influence = auc_and_influence(truth, scores, np.ones(m + n))
        value.append(found)
        parts.append([(influence[:m] ** 2).sum(), (influence[m:] ** 2).sum()])
    values, variances = np.array(value), np.array(parts)
    t = intervals.student(0.95, intervals.welch(variances, np.array([m, n])))
    total = variances.sum(1)
    known = total > 0
    logit = intervals.logit(values, total, t)
    normal = intervals.normal(values, total, Z)
    return tuple(float(_covers(each, auc)[known].mean()) for each in (logit, normal))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("m", "n", "auc"),
    [(10, 20, 0.8), (10, 100, 0.7), (20, 100, 0.9), (50, 200, 0.95), (100, 30, 0.9)],
)
def test_auc(m: int, n: int, auc: float) -> None:
    logit, _ = _auc_coverage(m, n, auc)
    assert 0.92 < logit < 0.98


def test_a_high_auc_of_few_positive_rows_falls_short() -> None:
    logit, normal = _auc_coverage(10, 100, 0.95)
    assert normal == pytest.approx(0.79, abs=0.03)
    assert logit == pytest.approx(0.92, abs=0.03)
    logit, normal = _auc_coverage(10, 500, 0.95)
    assert normal == pytest.approx(0.77, abs=0.03)
    assert logit == pytest.approx(0.87, abs=0.03)


# The worst group


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([500, 60, 40, 40], [0.8, 0.8, 0.8, 0.8]),
        ([200, 30], [0.9, 0.6]),
        ([30, 30], [0.5, 0.9]),
        ([1000, 300, 100, 50, 30, 30, 30, 30], [0.9, 0.85, 0.8, 0.7, 0.95, 0.9, 0.8, 0.75]),
    ],
)
def test_no_group_is_below_the_bound_of_the_worst(sizes: list[int], shares: list[float]) -> None:
    rng = np.random.default_rng(0)
    n, p = np.array(sizes), np.array(shares)
    correct = rng.binomial(n, p, (20_000, len(n)))
    z = intervals.quantile(0.95)
    bounds = intervals.wilson(correct, np.broadcast_to(n, correct.shape), z).low.min(1)
    assert np.mean(bounds <= p.min()) >= 0.93
    selected = p[(correct / n).argmin(1)]  # the group that looks worst in the sample
    assert np.mean(bounds <= selected) >= 0.93


@pytest.mark.parametrize("kind", ["normal", "laplace", "skewed"])
def test_no_group_has_an_error_above_the_bound_of_the_worst(kind: str) -> None:
    rng = np.random.default_rng(0)
    errors, absolute, _ = _errors(kind, (480, 1000))
    scales = [1.0, 1.0, 0.8]
    highs = [
        mean_intervals(np.abs(scale * rows), None, 1000, rng, 0.9).high
        for scale, rows in zip(scales, np.split(errors, [80, 180]), strict=True)
    ]
    assert np.mean(np.max(highs, axis=0) >= absolute) >= 0.93


# Permutation tests

_ALPHA, _N_DRAWS, _N_NULL = 0.05, 199, 1200


def _rejected(p: list[float]) -> float:
    return float(np.mean(np.array(p) <= _ALPHA))


@pytest.mark.parametrize("n_outcomes", [2, 3])
@pytest.mark.parametrize("gap", ["equalized odds", "demographic parity", "accuracy"])
def test_a_true_null_of_counts(gap: str, n_outcomes: int) -> None:
    """Three groups of unequal sizes, and of unequal base rates where that is no gap."""
    rng = np.random.default_rng(0)
    sizes = {
        "equalized odds": np.array([[200, 60, 50], [80, 40, 90], [40, 125, 30]])[:, :n_outcomes],
        "demographic parity": np.array([[260], [120], [65]]),
        "accuracy": np.array([[400], [150], [80]]),
    }[gap]
    given = np.array([[0.6, 0.3, 0.1], [0.25, 0.5, 0.25], [0.2, 0.2, 0.6]])[:, :n_outcomes]
    if gap == "accuracy":
        given = np.array([[0.8, 0.2]])
    given = given / given.sum(1, keepdims=True)
    found = []
    for _ in range(_N_NULL):
        tables = [
            np.stack([rng.multinomial(n, given[label]) for n in column])
            for label, column in enumerate(sizes.T)
        ]
        found.append(permutation.gap_p(tables, _N_DRAWS, rng))
    assert 0.03 < _rejected(found) < 0.07


@pytest.mark.parametrize("outcome", ["error", "label", "labels"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_true_null_of_rows(outcome: str, weighted: bool) -> None:
    """Weights differ between groups, as those of a survey do."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [90, 40, 20])
    found = []
    for _ in range(_N_NULL):
        if outcome == "error":
            values = rng.exponential(size=(150, 1))
        elif outcome == "label":
            values = (rng.random((150, 1)) < 0.4).astype(np.float64)
        else:
            values = np.eye(3)[rng.integers(0, 3, 150)]
        weights = rng.gamma(3, size=150) * (1 + codes) if weighted else None
        rows = permutation.RowSet(values, codes, weights)
        found.append(permutation.row_gap_p([rows], 3, _N_DRAWS, rng))
    assert 0.03 < _rejected(found) < 0.07


def test_a_true_null_of_many_rows() -> None:
    """Beyond 5,000 rows, where groups of 600 and more have their mean drawn from its limit."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [4400, 600, 60])
    found = []
    for _ in range(800):
        rows = permutation.RowSet(rng.exponential(size=(5060, 1)), codes, None)
        found.append(permutation.row_gap_p([rows], 3, _N_DRAWS, rng))
    assert 0.03 < _rejected(found) < 0.07
