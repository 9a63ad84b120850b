from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from fairclip.metrics import audit
from tests.metrics._inputs import Sample, samples

scores: Any = import_module("fairclip.metrics._scores")


@settings(derandomize=True, deadline=None, max_examples=50)
@given(samples())
def test_components_are_those_of_all_pairs(sample: Sample) -> None:
    y, s = sample.y_true, sample.y_score
    positive, negative = scores.auc_components(y, s)
    below = (s[y == 0] < s[y == 1][:, None]) + 0.5 * (s[y == 0] == s[y == 1][:, None])
    if below.size:
        np.testing.assert_allclose(positive, below.mean(1), atol=1e-12)
        np.testing.assert_allclose(negative, below.mean(0), atol=1e-12)


def test_delong_covers() -> None:
    rng = np.random.default_rng(0)
    n_simulations, group = 1500, 60
    y = np.tile(np.arange(group) % 3 == 0, n_simulations).astype(np.int64)
    s = rng.normal(y, 1.0)  # AUC = Phi(1 / sqrt 2)
    names = np.repeat(np.arange(n_simulations), group)
    found = audit(y, y, sensitive_features=names, y_score=s, n_boot=1).intervals
    rows = found[found.index.get_level_values("metric") == "auc"].iloc[1:]
    true = 0.7602499389
    assert 0.92 < ((rows["low"] <= true) & (true <= rows["high"])).mean() < 0.97


def test_calibration_error_worked_by_hand() -> None:
    # Bin [.1, .2): mean score .15, base rate 0; bin [.9, 1]: mean score .95, base rate .5.
    found = audit(
        [0, 0, 0, 1], [0, 0, 1, 1], sensitive_features=list("aaaa"), y_score=[0.1, 0.2, 0.9, 1.0]
    )
    assert found.overall["ece"] == pytest.approx(0.25 * 0.1 + 0.25 * 0.2 + 0.5 * 0.45)
    assert found.intervals.loc[("overall", "ece"), ["low", "high"]].isna().all()
