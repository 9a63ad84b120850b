from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from fairclip.metrics import audit
from tests.metrics._inputs import Sample, samples

gap_p: Any = import_module("fairclip.metrics._permutation").gap_p


def test_two_groups_worked_by_hand() -> None:
    # 2 selected of 4 rows, both in one group of 2: 2 of the 6 ways to choose them are as extreme.
    counts = np.array([[[0, 2], [0, 0]], [[2, 0], [0, 0]]])
    p = gap_p(counts, "demographic_parity_difference", 200_000, np.random.default_rng(0))
    assert p == pytest.approx(1 / 3, abs=0.005)


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


def test_equalized_odds_are_permuted_within_the_label() -> None:
    """Groups of different base rates and one perfect model: no gap, and p = 1."""
    y = np.repeat([0, 1, 0, 1], [90, 10, 10, 90])
    group = np.repeat(["a", "b"], 100)
    perfect = audit(y, y, sensitive_features=group).gaps["p"]
    assert perfect["equalized_odds_difference"] == 1
    assert perfect["demographic_parity_difference"] < 0.001


@pytest.mark.parametrize("gap", ["demographic_parity_difference", "equalized_odds_difference"])
def test_p_is_below_alpha_in_no_more_than_alpha_of_null_data_sets(gap: str) -> None:
    rng = np.random.default_rng(0)
    n = np.array([[[200], [60]], [[80], [40]], [[40], [25]]])
    found = []
    for _ in range(400):
        selected = rng.binomial(n[:, :, 0], [0.2, 0.7])
        counts = np.stack([n[:, :, 0] - selected, selected], axis=-1)
        found.append(gap_p(counts, gap, 199, rng))
    if gap == "equalized_odds_difference":
        assert np.mean(np.array(found) <= 0.05) < 0.08
        assert 0.4 < np.mean(found) < 0.65
    else:  # base rates differ, so under equal odds selection rates do too: p sees that
        assert np.mean(found) < 0.5


def test_p_does_not_depend_on_the_order_of_groups_of_equal_counts() -> None:
    """Sums in another order round differently: an equal gap must count as equal."""
    y = np.tile([0, 1, 1], 30)
    found = audit(y, np.tile([0, 1, 0], 30), sensitive_features=np.repeat(list("abc"), 30))
    assert found.gaps["p"]["accuracy_difference"] == 1
