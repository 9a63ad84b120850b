from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fairclip.metrics import audit

intervals: Any = import_module("fairclip.metrics._intervals")
effective_size: Any = import_module("fairclip.metrics._sizes").effective_size
Z = intervals.two_sided(0.95)


def _interval(value: float, low: float, high: float) -> Any:
    return intervals.Interval(*(np.array([each]) for each in (value, low, high)))


@pytest.mark.parametrize("n", [1, 2, 12, 100, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_is_that_of_scipy(n: int, confidence: float) -> None:
    successes = np.unique(np.linspace(0, n, 30).astype(np.int64))
    found = intervals.wilson(successes, np.full_like(successes, n), intervals.two_sided(confidence))
    for i, k in enumerate(successes):
        oracle = stats.binomtest(int(k), n).proportion_ci(confidence, method="wilson")
        assert (found.low[i], found.high[i]) == pytest.approx(tuple(oracle), abs=1e-12)


def test_wilson_of_weights_is_that_of_the_effective_rows() -> None:
    found = intervals.wilson(np.array([3.0]), np.array([7.5]), Z, n_eff=np.array([50.0]))
    oracle = intervals.wilson(np.array([20]), np.array([50]), Z)
    assert np.ravel(found) == pytest.approx(np.ravel(oracle))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_wilson_of_weights_stays_in_order(weights: list[float]) -> None:
    """Sums of the same weights in another order may exceed each other."""
    successes, trials = np.array([sum(weights)]), np.array([sum(reversed(weights))])
    found = intervals.wilson(successes, trials, Z, n_eff=np.array([float(len(weights))]))
    assert 0 <= found.low[0] <= found.value[0] <= found.high[0] <= 1


def test_undefined_shares_have_undefined_bounds() -> None:
    for n_eff in (None, np.array([0.0]), np.array([np.nan])):
        assert np.isnan(intervals.wilson(np.array([0]), np.array([0]), Z, n_eff)).all()


def test_effective_size_worked_by_hand() -> None:
    def size(weights: list[float], success: list[int]) -> float:
        w, s = np.array(weights), np.array(success)
        found = effective_size((w * s).sum(), w.sum(), (w**2 * s).sum(), (w**2).sum())
        return float(found)

    assert size([2, 2, 2, 2], [1, 0, 0, 1]) == pytest.approx(4)  # equal weights: the rows
    assert size([1, 3], [1, 1]) == pytest.approx(16 / 10)  # all succeed: Kish
    # p = 1/2: 1/4 * 36 / (1/4 * 9 + 1/4 * 3), Kish gives 36 / 12 too
    assert size([3, 1, 1, 1], [1, 0, 0, 0]) == pytest.approx(3)
    # p = 1/3: 2/9 * 81 / (4/9 * 9 + 1/9 * 6); Kish would give 81 / 15 = 5.4
    assert size([3, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]) == pytest.approx(18 / (42 / 9))
    assert size([], []) == 0


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_effective_size_is_at_most_that_of_kish(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, success = rng.exponential(size=n), rng.integers(0, 2, n)
    sums = [(weights**power * mask).sum() for power in (1, 2) for mask in (success, 1)]
    found = float(effective_size(sums[0], sums[1], sums[2], sums[3]))
    assert 0 < found <= sums[1] ** 2 / sums[3] + 1e-9 <= n + 1e-6


def test_ratio_agrees_with_the_formula_of_donner_and_zou() -> None:
    a, b = (0.4, 0.3, 0.55), (0.5, 0.42, 0.6)
    found = intervals.ratio(_interval(*a), _interval(*b))
    (t1, l1, u1), (t2, l2, u2) = a, b
    low = (t1 * t2 - np.sqrt((t1 * t2) ** 2 - l1 * u2 * (2 * t1 - l1) * (2 * t2 - u2))) / (
        u2 * (2 * t2 - u2)
    )
    high = (t1 * t2 + np.sqrt((t1 * t2) ** 2 - u1 * l2 * (2 * t1 - u1) * (2 * t2 - l2))) / (
        l2 * (2 * t2 - l2)
    )
    assert np.ravel(found) == pytest.approx([0.8, low, high])


def test_ratios_at_the_edges() -> None:
    half = _interval(0.5, 0.4, 0.6)
    none = intervals.ratio(_interval(0, 0, 0.1), half)
    assert (none.value[0], none.low[0]) == (0, 0)
    # at 0 the bound is u / sqrt(l (2 b - l)) = 0.1 / sqrt(0.24)
    assert none.high[0] == pytest.approx(0.1 / np.sqrt(0.24))
    unbounded = intervals.ratio(half, _interval(0.1, 0, 0.3))
    assert unbounded.value[0] == pytest.approx(5)
    assert 0 < unbounded.low[0] < 5
    assert unbounded.high[0] == np.inf
    assert intervals.ratio(_interval(0, 0, 0.1), _interval(0.1, 0, 0.3)).high[0] == np.inf
    assert np.isnan(intervals.ratio(half, _interval(0, 0, 0.2))).all()
    negative = intervals.ratio(_interval(-1, -2, 0.5), half)
    assert negative.value[0] == -2
    assert np.isnan([negative.low[0], negative.high[0]]).all()
    unknown = intervals.ratio(half, _interval(0.5, np.nan, np.nan))
    assert unknown.value[0] == 1
    assert np.isnan([unknown.low[0], unknown.high[0]]).all()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(*[st.integers(0, 40)] * 2, *[st.integers(1, 40)] * 2)
def test_ratios_of_shares_lie_within_their_bounds(k1: int, k2: int, n1: int, n2: int) -> None:
    shares = [
        intervals.wilson(np.array([min(k, n)]), np.array([n]), Z) for k, n in ((k1, n1), (k2, n2))
    ]
    found = intervals.ratio(*shares)
    if k2 == 0:
        assert np.isnan(found).all()
    else:
        assert 0 <= found.low[0] <= found.value[0] + 1e-12
        assert found.value[0] <= found.high[0] + 1e-12


def test_logit_is_symmetric_in_the_log_odds_and_stays_inside() -> None:
    value, variance = np.array([0.5, 0.97, 1.0, 0.0]), np.array([0.01, 0.0009, 0.0, 0.01])
    found = intervals.logit(value, variance, 1.96)
    logs = [np.log(part[:2] / (1 - part[:2])) for part in found]
    assert logs[2] - logs[0] == pytest.approx(logs[0] - logs[1])
    assert found.high[0] - 0.5 == pytest.approx(0.5 * np.tanh(1.96 * 0.1 / 0.25 / 2))
    assert found.high[1] < 1
    assert np.isnan(found.low[2:]).all()
    assert np.isnan(found.high[2:]).all()


def test_student_and_welch_are_those_of_scipy() -> None:
    freedom = np.array([1.0, 7.5, 1e6, 0.0])
    found = intervals.student(0.95, freedom)
    assert found[:3] == pytest.approx(stats.t.ppf(0.975, freedom[:3]))
    assert np.isnan(found[3])
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(0, 3, 12)
    variances = np.array([a.var(ddof=1) / 5, b.var(ddof=1) / 12])
    oracle = stats.ttest_ind(a, b, equal_var=False).df
    assert intervals.welch(variances, np.array([5.0, 12.0])) == pytest.approx(oracle)


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
