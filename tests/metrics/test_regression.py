from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from fairclip.metrics import Audit, audit, summary
from tests.metrics._inputs import Sample, number_samples
from tests.metrics._properties import assert_brackets, assert_figures_are, at


def _audit(sample: Sample, *, is_weighted: bool = True, n_boot: int = 1, **options: Any) -> Audit:
    return audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        sample_weight=sample.weight if is_weighted else None,
        task="regression",
        n_boot=n_boot,
        **options,
    )


def _r2(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
    if np.ptp(y_true[sample_weight > 0]) == 0:
        return float("nan")
    return float(r2_score(y_true, y_pred, sample_weight=sample_weight))


ORACLES = {
    "mean_true": lambda y_true, _, sample_weight: np.average(y_true, weights=sample_weight),
    "mean_pred": lambda _, y_pred, sample_weight: np.average(y_pred, weights=sample_weight),
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "bias": lambda y_true, y_pred, sample_weight: np.average(
        y_pred - y_true, weights=sample_weight
    ),
    "r2": _r2,
}


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.booleans(), number_samples())
def test_figures_are_those_of_metric_frame(is_weighted: bool, sample: Sample) -> None:
    found = _audit(sample, is_weighted=is_weighted)
    weight = sample.weight if is_weighted else np.ones(len(sample.y_true))
    scale = max(1.0, float(np.abs([sample.y_true, sample.y_pred]).max()))
    assert_figures_are(found, ORACLES, sample, weight, scale=scale)
    assert list(found.overall.index) == list(ORACLES)
    assert found.cells is None


@settings(derandomize=True, deadline=None, max_examples=25)
@given(number_samples())
def test_gaps_and_the_worst_group_are_those_of_the_groups(sample: Sample) -> None:
    found = _audit(sample, n_boot=20)
    scale = float(np.abs(sample.y_true).max())
    present = found.by_group[found.by_group["n"] > 0]
    difference = found.difference()
    for name in ("mae", "bias"):
        gap = at(found.gaps, f"{name}_difference")
        assert gap["value"] == pytest.approx(difference[name], abs=1e-12 * scale, nan_ok=True)
        assert np.isnan(gap["p"]) == np.isnan(gap["value"])
    worst = at(found.worst, "worst_group_mae")
    assert worst["value"] == pytest.approx(present["mae"].max(), abs=1e-12 * scale)
    assert not worst["bound"] < worst["value"]
    assert_brackets(found.intervals)
    assert_brackets(found.disparities, "difference")


def test_a_table_worked_by_hand() -> None:
    # a: errors 1, -1, 3; b: error -2 of one row.
    found = audit(
        [1.5, 2.5, 3.5, 4.0],
        [2.5, 1.5, 6.5, 2.0],
        sensitive_features={"g": list("aaab")},
        n_boot=99,
        min_group_size=2,
    )
    assert found.settings["task"] == "regression"
    assert found.by_group.loc["a"].to_dict() == pytest.approx(
        {
            "n": 3,
            "mean_true": 2.5,
            "mean_pred": 3.5,
            "mae": 5 / 3,
            "rmse": np.sqrt(11 / 3),
            "bias": 1.0,
            "r2": 1 - 11 / 2,
        }
    )
    assert np.isnan(at(found.by_group, "b")["r2"])
    assert found.gaps["value"].to_dict() == pytest.approx(
        {"mae_difference": 1 / 3, "bias_difference": 3.0}
    )
    assert at(found.gaps, "bias_difference")["lowest"] == "g=b"
    assert at(found.worst, "worst_group_mae")["name"] == "g=b"
    assert at(found.worst, "worst_group_mae")["n"] == 1
    assert np.isnan(at(found.worst, "worst_group_mae")["bound"])  # one row bounds nothing
    assert found.warnings == ["Small groups, fewer than 2 rows: g=b (1). Read their intervals."]


def test_r2_keeps_its_digits_where_groups_are_far_apart() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(0, 1, 50), rng.normal(1e7, 1, 50)])
    p = y + rng.normal(0, 0.5, 100)
    found = audit(y, p, sensitive_features=np.repeat(["a", "b"], 50), n_boot=1)
    for group, rows in (("a", slice(50)), ("b", slice(50, None))):
        expected = r2_score(y[rows], p[rows])
        # 1e7 leaves 9 digits of a spread of 1.
        assert at(found.by_group, group)["r2"] == pytest.approx(expected, abs=1e-12)


def test_a_group_without_weight_is_not_the_worst() -> None:
    arguments: dict[str, Any] = {"sensitive_features": list("aabb"), "n_boot": 9}
    weight = [1, 1, 0, 0]
    y, p = [0.5, 1.5, 2.5, 3.5], [0.5, 1.0, 2.5, 3.5]
    found = audit(y, p, sample_weight=weight, **arguments)
    assert at(found.by_group, "b")[["mae", "bias", "r2"]].isna().all()
    worst = at(found.worst, "worst_group_mae")
    assert (worst["name"], worst["value"]) == ("sensitive_feature_0=a", 0.25)
    assert found.gaps["value"].isna().all()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(number_samples())
def test_summary_and_audit_agree(sample: Sample) -> None:
    row = summary(sample.y_true + 0.1, sample.y_pred, sensitive_features=sample.features)
    full = audit(sample.y_true + 0.1, sample.y_pred, sensitive_features=sample.features, n_boot=1)
    assert full.settings["task"] == "regression"
    assert row.pop("worst_group") == full.worst["name"]["worst_group_mae"]
    expected: dict[str, Any] = {
        **{name: full.overall[name] for name in ("mae", "rmse", "bias", "r2")},
        "worst_group_mae": full.worst["value"]["worst_group_mae"],
        **{str(name): value for name, value in full.gaps["value"].items()},
    }
    assert list(row) == list(expected)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-9, nan_ok=True)


def test_whole_numbers_are_labels_unless_said_otherwise() -> None:
    y, p, g = [0, 1, 2, 3], [0, 1, 2, 2], list("aabb")
    assert audit(y, p, sensitive_features=g, n_boot=1).settings["task"] == "multiclass"
    found = audit(y, p, sensitive_features=g, task="regression", n_boot=1)
    assert found.overall["mae"] == 0.25
    halves = audit([0.0, 0.5, 2, 3], p, sensitive_features=g, n_boot=1)
    assert halves.settings["task"] == "regression"
    missing = pd.array([0.5, 1, 2, 3], dtype="Float64")
    assert audit(missing, p, sensitive_features=g, n_boot=1).settings["task"] == "regression"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_pred": [0.5, np.inf, 1.0, 1.0]}, "`y_pred` must be finite, got inf"),
        ({"y_true": [0.5, np.inf, 1.0, 1.0]}, "`y_true` must be finite, got inf"),
        ({"y_pred": [0.5, np.nan, 1.0, 1.0]}, "`y_pred` has 1 missing"),
        ({"y_pred": ["a", "b", "c", "d"]}, "`y_pred` must hold numbers, got 'a'"),
        ({"y_score": [0.5, 0.4, 0.1, 0.0]}, "`y_score` is of labels"),
        ({"favourable": 1}, "`favourable` is of two labels"),
    ],
)
def test_bad_numbers_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "y_true": [0.5, 1.5, 1.0, 0.0],
        "y_pred": [0.5, 1.0, 1.0, 1.0],
        "sensitive_features": list("aabb"),
    }
    with pytest.raises(ValueError, match=message):
        audit(**(arguments | change))


def test_whole_numbers_with_predictions_between_them_need_the_task_named() -> None:
    y = [10, 20, 30, 40, 50, 60]
    p = [value + 0.5 for value in y]
    with pytest.raises(ValueError, match='pass task="regression"'):
        audit(y, p, sensitive_features=list("aabbab"), n_boot=9)
    found = audit(y, p, sensitive_features=list("aabbab"), n_boot=9, task="regression")
    assert found.overall["bias"] == 0.5
