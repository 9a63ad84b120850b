from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from scipy import stats

from fairclip.metrics import audit
from tests.metrics._inputs import Sample, samples

permutation: Any = import_module("fairclip.metrics._permutation")
row_sets: Any = import_module("fairclip.metrics._row_sets")
gap_p, row_gap_p, RowSet = permutation.gap_p, permutation.row_gap_p, permutation.RowSet
Ints = NDArray[np.int64]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _table(codes: Ints, outcomes: Ints) -> Ints:
    shape = (codes.max() + 1, outcomes.max() + 1)
    table = np.bincount(codes * shape[1] + outcomes, minlength=shape[0] * shape[1])
    return table.reshape(shape).astype(np.int64)


def test_two_groups_worked_by_hand() -> None:
    # 2 selected of 4 rows, both in one group of 2: 2 of the 6 ways to choose them are as extreme.
    table = np.array([[0, 2], [2, 0]])
    assert gap_p([table], 200_000, _rng()) == pytest.approx(1 / 3, abs=0.005)
    rows = RowSet(np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([0, 0, 1, 1]), None)
    assert row_gap_p([rows], 2, 20_000, _rng()) == pytest.approx(1 / 3, abs=0.015)


def test_two_tables_are_shuffled_apart() -> None:
    # Each table is as extreme as can be in 1/3 of its shuffles: either is in 1 - (2/3)^2.
    table = np.array([[0, 2], [2, 0]])
    assert gap_p([table, table], 200_000, _rng()) == pytest.approx(5 / 9, abs=0.005)
    rows = RowSet(np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([0, 0, 1, 1]), None)
    assert row_gap_p([rows, rows], 2, 20_000, _rng()) == pytest.approx(5 / 9, abs=0.015)


def test_the_gap_is_that_of_the_outcome_that_differs_most() -> None:
    table = np.array([[2, 0, 2], [0, 1, 3]])  # spreads 1/2, 1/4 and 1/4
    assert permutation._gap(table, table.sum(1)) == 0.5
    codes, outcomes = np.repeat([0, 1], 4), np.array([0, 0, 2, 2, 1, 2, 2, 2])
    assert row_sets.Slots.of(RowSet(np.eye(3)[outcomes], codes, None), 2).spread() == 0.5


def test_weights_worked_by_hand() -> None:
    # The success is at weight 3 of 4 in one of two groups: 1/4 - 0, so every place is as extreme
    # but that of weight 1: shares 3/4 (of that row), 1/4, 1/2, 1/2.
    values = np.array([[0.0], [1.0], [0.0], [0.0]])
    rows = RowSet(values, np.array([0, 0, 1, 1]), np.array([3.0, 1.0, 2.0, 2.0]))
    assert row_gap_p([rows], 2, 20_000, _rng()) == 1
    rows = RowSet(values[[1, 0, 2, 3]], np.array([0, 0, 1, 1]), np.array([3.0, 1.0, 2.0, 2.0]))
    assert row_gap_p([rows], 2, 20_000, _rng()) == pytest.approx(1 / 4, abs=0.015)


@settings(derandomize=True, deadline=None, max_examples=5)
@given(samples(max_rows=40))
def test_p_is_that_of_shuffled_rows(sample: Sample) -> None:
    race = sample.features["race"].to_numpy()
    correct = sample.y_true == sample.y_pred

    def gap(codes: Any) -> float:
        shares = [correct[codes == level].mean() for level in np.unique(codes)]
        return float(np.ptp(shares))

    found = audit(sample.y_true, sample.y_pred, sensitive_features=race)
    oracle = stats.permutation_test(
        (race.astype("U1"),),
        gap,
        permutation_type="pairings",
        n_resamples=2000,
        alternative="greater",
        rng=0,
    )
    assert found.gaps["p"]["accuracy_difference"] == pytest.approx(oracle.pvalue, abs=0.05)


@pytest.mark.parametrize("n_groups", [2, 3, 5, 8])
@pytest.mark.parametrize("n_outcomes", [2, 3, 4])
def test_drawn_tables_are_those_of_shuffled_rows(n_groups: int, n_outcomes: int) -> None:
    rng = _rng(n_groups)
    codes = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 40) ** 2 // n_groups])
    outcomes = np.concatenate([np.arange(n_outcomes), rng.integers(0, n_outcomes, len(codes))])
    outcomes = outcomes[: len(codes)]
    table = _table(codes, outcomes)
    drawn = permutation._shuffled(table, 4000, rng)
    margins = [np.broadcast_to(table.sum(axis), drawn.sum(1 + axis).shape) for axis in (0, 1)]
    np.testing.assert_array_equal(drawn.sum(1), margins[0])
    np.testing.assert_array_equal(drawn.sum(2), margins[1])
    assert drawn.min() >= 0
    shuffles = np.stack([_table(rng.permutation(codes), outcomes) for _ in range(4000)])
    moments = [np.cov(each.reshape(4000, -1).T) for each in (drawn, shuffles)]
    np.testing.assert_allclose(drawn.mean(0), shuffles.mean(0), atol=0.15)
    np.testing.assert_allclose(moments[0], moments[1], atol=0.3)
    gaps = [permutation._gap(each, table.sum(1)) for each in (drawn, shuffles)]
    assert stats.ks_2samp(*gaps).statistic < 0.05


def test_equalized_odds_are_permuted_within_the_label() -> None:
    """Groups of different base rates and one perfect model: no gap, and p = 1."""
    y = np.repeat([0, 1, 0, 1], [90, 10, 10, 90])
    group = np.repeat(["a", "b"], 100)
    perfect = audit(y, y, sensitive_features=group).gaps["p"]
    assert perfect["equalized_odds_difference"] == 1
    assert perfect["demographic_parity_difference"] < 0.001


def test_p_does_not_depend_on_the_order_of_groups_of_equal_counts() -> None:
    """Sums in another order round differently: an equal gap must count as equal."""
    y = np.tile([0, 1, 1], 30)
    found = audit(y, np.tile([0, 1, 0], 30), sensitive_features=np.repeat(list("abc"), 30))
    assert found.gaps["p"]["accuracy_difference"] == 1


def test_a_group_without_rows_leaves_p_undefined() -> None:
    table, none = np.array([[3, 2], [1, 4]]), np.zeros((2, 2))
    absent = np.array([[3, 2], [0, 0]])
    assert np.isnan(gap_p([table, absent], 99, _rng()))
    assert np.isnan(gap_p([none], 99, _rng()))
    assert np.isnan(gap_p([], 99, _rng()))
    assert gap_p([table, none], 99, _rng()) == gap_p([table], 99, _rng())
    values = np.ones((3, 1))
    assert np.isnan(row_gap_p([RowSet(values, np.array([0, 0, 2]), None)], 3, 99, _rng()))
    weightless = RowSet(values, np.array([0, 1, 2]), np.array([1.0, 0.0, 1.0]))
    assert np.isnan(row_gap_p([weightless], 3, 99, _rng()))
    assert np.isnan(row_gap_p([RowSet(values[:0], np.empty(0, np.int64), None)], 3, 99, _rng()))


def test_one_group_and_equal_rows_have_no_gap() -> None:
    assert gap_p([np.array([[3, 2, 5]])], 99, _rng()) == 1
    assert gap_p([np.array([[7, 0], [9, 0]])], 99, _rng()) == 1
    rows = RowSet(np.full((9, 1), 0.1), np.arange(9) % 3, None)
    assert row_gap_p([rows], 3, 99, _rng()) == 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("small", [0, 20, 10**9])
def test_long_sets_are_as_if_shuffled(
    weighted: bool, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of 15, 60, 225 and 900 skewed rows; their means drawn, normal, or both."""
    rng = _rng()
    codes = np.repeat([0, 1, 2, 3], [15, 60, 225, 900])
    values = rng.gamma(4, size=(1200, 2))
    weights = rng.gamma(2, size=1200) if weighted else None
    rows = row_sets.Slots.of(RowSet(values, codes, weights), 4)
    oracle = rows.shuffled_spreads(4000, rng)
    monkeypatch.setattr(row_sets, "_MAX_SHUFFLED", 10)
    monkeypatch.setattr(row_sets, "_MAX_SMALL", small)
    found = rows.shuffled_spreads(4000, rng)
    assert stats.ks_2samp(found, oracle).statistic < 0.05
    np.testing.assert_allclose(
        np.quantile(found, [0.5, 0.9, 0.95]), np.quantile(oracle, [0.5, 0.9, 0.95]), rtol=0.06
    )


def test_more_than_a_billion_rows() -> None:
    table = np.array([[600_000_000, 1_400_000_000], [300_000, 700_000]])
    assert gap_p([table], 999, _rng()) > 0.9
    table[1] += [5000, -5000]
    assert gap_p([table], 999, _rng()) == 0.001


def test_the_draws_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 draws are asked for, 400 cells allowed: 100 draws of a table of 4, or the least."""
    table = np.array([[0, 400], [400, 0]])
    monkeypatch.setattr(permutation, "_MAX_CELLS", 400)
    monkeypatch.setattr(permutation, "_MIN_DRAWS", 10)
    assert gap_p([table], 500, _rng()) == pytest.approx(1 / 101)
    monkeypatch.setattr(permutation, "_MIN_DRAWS", 199)
    assert gap_p([table], 500, _rng()) == pytest.approx(1 / 200)
    monkeypatch.setattr(permutation, "_BLOCK", 10)
    assert gap_p([table], 500, _rng()) == pytest.approx(1 / 200)
