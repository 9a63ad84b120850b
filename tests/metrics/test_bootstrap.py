from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

bootstrap: Any = import_module("fairclip.metrics._bootstrap")
mean_intervals: Any = import_module("fairclip.metrics._means").mean_intervals
Floats = NDArray[np.float64]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_cells_are_drawn_from_the_multinomial_of_each_entry() -> None:
    counts = np.array([[[20, 5, 0, 15], [0, 0, 0, 0]], [[3, 3, 3, 1], [10**7, 0, 0, 10**7]]])
    drawn = bootstrap.cell_replicates(counts, 20_000, _rng())
    assert drawn.shape == (20_000, 2, 2, 4)
    np.testing.assert_array_equal(drawn.sum(-1), np.broadcast_to(counts.sum(-1), (20_000, 2, 2)))
    np.testing.assert_allclose(drawn.mean(0), counts, rtol=0.02)
    p = counts[0, 0] / 40
    oracle = 40 * (np.diag(p) - np.outer(p, p))
    np.testing.assert_allclose(np.cov(drawn[:, 0, 0].T), oracle, atol=0.3)


def test_an_effective_size_scales_the_draw() -> None:
    counts = np.array([[30.0, 10.0], [2.0, 6.0]])
    squares = counts * np.array([[40 / 8], [8 / 4]])  # as of 8 and of 4 rows of one weight
    drawn = bootstrap.cell_replicates(counts, 20_000, _rng(), squares=squares)
    np.testing.assert_allclose(drawn.sum(-1), np.broadcast_to(counts.sum(-1), (20_000, 2)))
    shares = drawn[..., 0] / drawn.sum(-1)
    oracle = [0.75 * 0.25 / 8, 0.25 * 0.75 / 4]
    np.testing.assert_allclose(shares.var(0), oracle, rtol=0.05)


@pytest.mark.parametrize("weigh", ["all alike", "by label", "by row"])
def test_weighted_cells_vary_as_drawn_rows_do(weigh: str) -> None:
    """Weights by label: an effective size of all rows would be that of neither label."""
    rng = _rng()
    y, correct = np.arange(600) % 10 == 0, rng.random(600) < 0.7
    weights = {
        "all alike": np.full(600, 3.0),
        "by label": np.where(y, 9.0, 1.0),
        "by row": rng.gamma(2, size=600),
    }[weigh]
    cell = y * 2 + correct
    counts, squares = (np.bincount(cell, weights**power) for power in (1, 2))
    drawn = bootstrap.cell_replicates(counts, 20_000, rng, squares=squares)
    oracle = np.stack(
        [
            np.bincount(cell[rows], weights[rows], minlength=4)
            for rows in rng.integers(0, 600, (4000, 600))
        ]
    )
    for start in (0, 2):
        recalls = [
            cells[:, start + 1] / cells[:, start : start + 2].sum(1) for cells in (drawn, oracle)
        ]
        assert recalls[0].mean() == pytest.approx(recalls[1].mean(), abs=0.01)
        assert recalls[0].std() == pytest.approx(recalls[1].std(), rel=0.15)
    accuracies = [cells[:, [1, 3]].sum(1) / cells.sum(1) for cells in (drawn, oracle)]
    assert accuracies[0].std() == pytest.approx(accuracies[1].std(), rel=0.15)


def test_rows_of_weight_one_need_no_squares() -> None:
    counts = np.array([20.0, 5.0, 0.0])
    plain = bootstrap.cell_replicates(counts, 100, _rng())
    squared = bootstrap.cell_replicates(counts, 100, _rng(), squares=counts)
    np.testing.assert_array_equal(plain, squared)


def test_row_replicates_are_means_of_rows() -> None:
    moments = np.array([[0.0, 1.0], [1.0, 10.0], [2.0, 100.0]])
    drawn = bootstrap.row_replicates(moments, 50_000, _rng())
    rows = np.stack(np.meshgrid([0, 1, 2], [0, 1, 2], [0, 1, 2]), -1).reshape(-1, 3)
    oracle, times = np.unique(moments[rows].mean(1).round(9), axis=0, return_counts=True)
    found, n = np.unique(drawn.round(9), axis=0, return_counts=True)
    np.testing.assert_allclose(found, oracle)
    np.testing.assert_allclose(n / 50_000, times / 27, atol=0.01)


def test_row_replicates_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = _rng().normal(size=(30, 2))
    whole = bootstrap.row_replicates(moments, 101, _rng())
    monkeypatch.setattr(bootstrap, "_BLOCK", 70)
    np.testing.assert_allclose(bootstrap.row_replicates(moments, 101, _rng()), whole)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_have_a_value_and_no_bounds(n: int) -> None:
    moments = np.full((n, 2), 4.0)
    drawn = bootstrap.row_replicates(moments, 10, _rng())
    assert drawn.shape == (10, 2)
    assert (np.isnan(drawn) if n == 0 else drawn == 4).all()
    found = mean_intervals(moments, None, 10, _rng(), 0.95)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("tail", ["laplace", "exponential", "log-normal"])
def test_many_rows_are_drawn_from_their_limit(tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = _rng()
    rows = {
        "laplace": np.abs(rng.laplace(size=1500)),
        "exponential": rng.exponential(size=1500) ** 2,
        "log-normal": np.exp(rng.normal(size=1500)),
    }[tail]
    moments = np.stack([rows, rows**2, 1e6 * rows + 1], axis=1)  # the last is the first, rescaled
    exact = bootstrap.row_replicates(moments, 20_000, rng)
    one = mean_intervals(rows[:, None], None, 20_000, rng, 0.95)
    monkeypatch.setattr(bootstrap, "_MAX_DRAWN", 1)
    limit = bootstrap.row_replicates(moments, 20_000, rng)
    np.testing.assert_allclose(np.corrcoef(limit.T), np.corrcoef(exact.T), atol=0.02)
    np.testing.assert_allclose(limit.std(0), exact.std(0), rtol=0.03)
    other = mean_intervals(rows[:, None], None, 20_000, rng, 0.95)
    length = one.high - one.low
    assert abs(one.low - other.low) < 0.05 * length
    assert abs(one.high - other.high) < 0.08 * length


def test_percentile_worked_by_hand() -> None:
    replicates = np.arange(10_000.0)[::-1]
    tail = special.ndtr(np.sqrt(10 / 9) * stats.t.ppf(0.025, 9))  # 0.0086, not 0.025
    found = bootstrap.percentile(5000.0, replicates, 0.95, 10)
    assert (found.low, found.high) == (np.floor(tail * 10_000), 9999 - np.floor(tail * 10_000))
    many = bootstrap.percentile(5000.0, replicates, 0.95, 10**9)
    assert (many.low, many.high) == pytest.approx((250, 9749), abs=1)


def test_percentile_of_several_estimates() -> None:
    replicates = _rng().normal(size=(2000, 2, 3))
    sizes = np.array([[5, 50, 500], [1, 2, np.nan]])
    found = bootstrap.percentile(np.zeros((2, 3)), replicates, 0.9, sizes)
    for i, j in np.ndindex(2, 3):
        one = bootstrap.percentile(0.0, replicates[:, i, j], 0.9, sizes[i, j])
        np.testing.assert_equal([found.low[i, j], found.high[i, j]], [one.low, one.high])
    assert np.isnan(found.low[1, [0, 2]]).all()
    assert found.low[0, 0] < found.low[0, 2]  # fewer rows, a longer interval


def test_undefined_replicates() -> None:
    replicates = _rng().normal(size=1000)
    replicates[:50] = np.nan
    found = bootstrap.percentile(0.0, replicates, 0.95, 100)
    rest = bootstrap.percentile(0.0, replicates[50:], 0.95, 100)
    assert (found.low, found.high) == (rest.low, rest.high)
    replicates[50] = np.nan
    assert np.isnan(bootstrap.percentile(0.0, replicates, 0.95, 100).low)
    assert np.isnan(bootstrap.percentile(np.nan, np.zeros(9), 0.95, 100).high)
    one = np.ones(1000)
    assert np.isnan(bootstrap.percentile(1.0, one, 0.95, 100).low)  # nothing varies
    assert np.isnan(bootstrap.percentile(1.0, one + 1e-16, 0.95, 1).low)


def test_percentile_bounds_hold_the_estimate() -> None:
    found = bootstrap.percentile(9.0, np.linspace(0, 1, 100), 0.95, 100)
    assert found.high == 9


def test_studentized_worked_by_hand() -> None:
    # t* = -50, ..., 49: with 89 % between, 5 of 100 lie below -45 and 5 above 44
    t = np.arange(100.0) - 50
    found = bootstrap.studentized(10.0, 2.0, 10 + 3 * t, np.full(100, 3.0), 0.89)
    assert (found.low, found.high) == (10 - 2 * 44, 10 + 2 * 45)
    flat = bootstrap.studentized(10.0, 0.0, np.full(100, 10.0), np.zeros(100), 0.9)
    assert np.isnan([flat.low, flat.high]).all()


def test_means_of_symmetric_rows_have_student_s_interval() -> None:
    rows = _rng().normal(1000, 1, (40, 1))
    found = mean_intervals(rows - 1000, None, 20_000, _rng(), 0.95)
    oracle = stats.t.interval(0.95, 39, rows.mean() - 1000, rows.std(ddof=1) / np.sqrt(40))
    assert (found.low[0], found.high[0]) == pytest.approx(oracle, abs=0.03)
    far = mean_intervals(rows * np.array([1.0, -1.0]), None, 20_000, _rng(), 0.95)
    assert far.low[0] - 1000 == pytest.approx(found.low[0], abs=1e-3)
    assert far.high[1] == pytest.approx(-far.low[0], abs=0.02)


def test_few_rows_have_student_s_interval() -> None:
    rows = np.array([[1.0, -1.0], [2.0, 2.0], [6.0, 2.0], [7.0, 1.0]])
    found = mean_intervals(rows, None, 10, _rng(), 0.95)
    signed = stats.t.interval(0.95, 3, 1, rows[:, 1].std(ddof=1) / 2)
    assert (found.low[1], found.high[1]) == pytest.approx(signed, rel=0.01)
    # without a negative value by the logarithm, whose error is that of the mean over the mean
    logs = stats.t.interval(0.95, 3, np.log(4), rows[:, 0].std(ddof=1) / 2 / 4)
    assert (found.low[0], found.high[0]) == pytest.approx(np.exp(logs), rel=0.01)


@pytest.mark.parametrize("n", [2, 5, 15, 40])
def test_losses_keep_positive_bounds(n: int) -> None:
    rows = np.full((n, 1), 1e-9)
    rows[0] = n
    found = mean_intervals(rows, None, 2000, _rng(), 0.95)
    assert found.value[0] == pytest.approx(1)
    assert np.isnan(found.low[0]) or 0 < found.low[0] < 1 < found.high[0]


def test_weights_of_means() -> None:
    rng = _rng()
    rows = np.stack([rng.exponential(size=300), rng.normal(size=300)], axis=1)
    plain = mean_intervals(rows, None, 4000, _rng(), 0.95)
    same = mean_intervals(rows, np.full(300, 7.0), 4000, _rng(), 0.95)
    np.testing.assert_allclose(same, plain)
    weights = rng.integers(1, 4, 300).astype(np.float64)
    found = mean_intervals(rows, weights, 4000, rng, 0.95)
    np.testing.assert_allclose(found.value, np.average(rows, axis=0, weights=weights))
    residual = (rows - found.value) * weights[:, None]
    error = np.sqrt((residual**2).sum(0)) / weights.sum()
    np.testing.assert_allclose(found.high - found.low, 2 * 1.96 * error, rtol=0.07)


def test_rows_without_weight_have_no_mean() -> None:
    assert np.isnan(mean_intervals(np.ones((3, 2)), np.zeros(3), 10, _rng(), 0.95)).all()


def test_constant_rows_have_no_interval() -> None:
    found = mean_intervals(np.full((50, 2), [0.1, 0.0]), None, 200, _rng(), 0.95)
    np.testing.assert_allclose(found.value, [0.1, 0])
    assert np.isnan([found.low, found.high]).all()
