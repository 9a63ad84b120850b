from importlib import import_module
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fairclip.metrics import audit

intervals: Any = import_module("fairclip.metrics._intervals")
Z = intervals.two_sided(0.95)


@pytest.mark.parametrize("n", [1, 2, 12, 100, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_is_that_of_scipy(n: int, confidence: float) -> None:
    successes = np.unique(np.linspace(0, n, 30).astype(np.int64))
    found = intervals.wilson(successes, np.full_like(successes, n), intervals.two_sided(confidence))
    for i, k in enumerate(successes):
        oracle = stats.binomtest(int(k), n).proportion_ci(confidence, method="wilson")
        assert (found.low[i], found.high[i]) == pytest.approx(tuple(oracle), abs=1e-12)


@pytest.mark.parametrize("n", [30, 50, 100, 1000])
def test_wilson_covers_95_percent_averaged_over_p(n: int) -> None:
    p = np.linspace(0.1, 0.9, 201)
    k = np.arange(n + 1)
    found = intervals.wilson(k, np.full_like(k, n), Z)
    covers = (found.low <= p[:, None]) & (p[:, None] <= found.high)
    coverage = (stats.binom.pmf(k, n, p[:, None]) * covers).sum(1)  # exact, not simulated
    assert 0.93 < coverage.mean() < 0.97


@pytest.mark.parametrize(
    ("n1", "p1", "n2", "p2"),
    [(12, 0.95, 2000, 0.85), (30, 0.97, 3000, 0.9), (30, 0.9, 300, 0.8), (15, 0.3, 200, 0.1)],
)
def test_differences_between_groups_cover(n1: int, p1: float, n2: int, p2: float) -> None:
    """The percentile bootstrap covers 0.46 of the time in the first of these cases."""
    rng = np.random.default_rng(0)
    small, large = (rng.binomial(n, p, 20_000) for n, p in ((n1, p1), (n2, p2)))
    found = intervals.difference(
        intervals.wilson(small, np.full_like(small, n1), Z),
        intervals.wilson(large, np.full_like(large, n2), Z),
    )
    assert 0.93 < np.mean((found.low <= p1 - p2) & (p1 - p2 <= found.high)) < 0.97


@pytest.mark.parametrize(("n1", "p1", "n0", "p0"), [(30, 0.9, 30, 0.2), (20, 0.6, 200, 0.05)])
def test_balanced_accuracy_covers(n1: int, p1: float, n0: int, p0: float) -> None:
    rng = np.random.default_rng(0)
    tp, fp = rng.binomial(n1, p1, 20_000), rng.binomial(n0, p0, 20_000)
    found = intervals.balanced(
        intervals.wilson(tp, np.full_like(tp, n1), Z), intervals.wilson(fp, np.full_like(fp, n0), Z)
    )
    true = (p1 + 1 - p0) / 2
    assert 0.92 < np.mean((found.low <= true) & (true <= found.high)) < 0.97


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([500, 60, 40, 40], [0.8, 0.8, 0.8, 0.8]),
        ([200, 30], [0.9, 0.6]),
        ([1000, 300, 100, 50, 30, 30, 30, 30], [0.9, 0.85, 0.8, 0.7, 0.95, 0.9, 0.8, 0.75]),
    ],
)
def test_no_group_is_below_the_bound_of_the_worst(sizes: list[int], shares: list[float]) -> None:
    rng = np.random.default_rng(0)
    n_simulations = 4000
    n, p = np.array(sizes), np.array(shares)
    correct = rng.binomial(n, p, (n_simulations, len(n)))
    bounds = np.array([intervals.bound_of_least(k, n, 0.95) for k in correct])
    assert np.mean(bounds <= p.min()) >= 0.93
    selected = p[(correct / n).argmin(1)]  # the group that looks worst in the sample
    assert np.mean(bounds <= selected) >= 0.93


def test_the_bound_is_the_lowest_one_sided_bound_of_scipy() -> None:
    correct, n = [8, 45, 90], [10, 50, 100]
    y_true = np.ones(160, dtype=np.int64)
    y_pred = np.concatenate([np.arange(m) < k for k, m in zip(correct, n, strict=True)])
    found = audit(y_true, y_pred, sensitive_features=np.repeat(["a", "b", "c"], n), n_boot=1)
    oracle = [
        stats.binomtest(k, m, alternative="greater").proportion_ci(0.95, "wilson").low
        for k, m in zip(correct, n, strict=True)
    ]
    assert found.worst["bound"]["worst_group_accuracy"] == pytest.approx(min(oracle))


def test_undefined_shares_have_undefined_bounds() -> None:
    found = intervals.wilson(np.array([0]), np.array([0]), Z)
    assert np.isnan(found).all()
