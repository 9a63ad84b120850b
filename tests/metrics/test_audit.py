import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, selection_rate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_score, recall_score

from fairclip.metrics import Audit, MetricsWarning, audit
from tests.metrics._inputs import Sample, samples, table_sample
from tests.metrics._properties import assert_brackets, assert_figures_are, at

_recall = partial(recall_score, zero_division=np.nan)


def _balanced(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    recalls = [_recall(y_true, y_pred, sample_weight=sample_weight, pos_label=y) for y in (0, 1)]
    if not np.isnan(recalls).any():
        of_sklearn = balanced_accuracy_score(y_true, y_pred, sample_weight=sample_weight)
        assert np.mean(recalls) == pytest.approx(of_sklearn, abs=1e-12)
    return float(np.mean(recalls))


def _fpr(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    return float(1 - _recall(1 - y_true, 1 - y_pred, sample_weight=sample_weight))


ORACLES = {
    "base_rate": lambda y_true, _, sample_weight: np.average(y_true, weights=sample_weight),
    "accuracy": accuracy_score,
    "balanced_accuracy": _balanced,
    "selection_rate": selection_rate,
    "tpr": _recall,
    "fpr": _fpr,
    "fnr": lambda *args, **weight: 1 - _recall(*args, **weight),
    "precision": partial(precision_score, zero_division=np.nan),
}


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.booleans(), samples())
def test_rates_are_those_of_metric_frame(is_weighted: bool, sample: Sample) -> None:
    weight = sample.weight if is_weighted else None
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        sample_weight=weight,
        n_boot=1,
    )
    assert_figures_are(
        found, ORACLES, sample, np.ones(len(sample.y_true)) if weight is None else weight
    )
    assert list(found.overall.index) == list(ORACLES)
    n = sample.features.groupby(["sex", "race"]).size().reindex(found.by_group.index, fill_value=0)
    assert found.by_group["n"].tolist() == n.tolist()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_intervals_hold_their_estimates(sample: Sample) -> None:
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        y_score=sample.y_score,
        sample_weight=sample.weight,
        n_boot=1,
    )
    assert_brackets(found.intervals)
    assert_brackets(found.disparities, "difference")
    assert (found.worst["bound"] <= found.worst["value"]).all()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_differences_and_ratios_are_those_of_metric_frame(sample: Sample) -> None:
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        sample_weight=sample.weight,
        n_boot=1,
    )
    present = found.by_group["n"] > 0
    undefined = found.by_group.loc[present, list(ORACLES)].isna().any()
    defined = [name for name in ORACLES if not undefined[name]]
    aggregates = [
        ("group_min", {}),
        ("group_max", {}),
        *(
            (name, {"method": method})
            for name in ("difference", "ratio")
            for method in ("between_groups", "to_overall")
        ),
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        oracle = (
            MetricFrame(
                metrics={name: ORACLES[name] for name in defined},
                y_true=sample.y_true,
                y_pred=sample.y_pred,
                sensitive_features=sample.features,
                sample_params={name: {"sample_weight": sample.weight} for name in defined},
            )
            if defined
            else None
        )
    for name, options in aggregates:
        values = getattr(found, name)(**options)
        assert list(values.index) == list(ORACLES)
        assert values[undefined].isna().all()
        if oracle is not None:
            expected = getattr(oracle, name)(**options).astype(np.float64)
            np.testing.assert_allclose(values[defined], expected, rtol=0, atol=1e-12)


def test_a_table_worked_by_hand() -> None:
    # a: 2 of 4 favourable, 1 found, 1 false alarm; b: 1 of 2 favourable, found.
    found = audit(
        [1, 1, 0, 0, 1, 0],
        [1, 0, 1, 0, 1, 0],
        sensitive_features=["a", "a", "a", "a", "b", "b"],
        min_group_size=2,
    )
    assert found.by_group.loc["a"].to_dict() == {
        "n": 4,
        "base_rate": 0.5,
        "accuracy": 0.5,
        "balanced_accuracy": 0.5,
        "selection_rate": 0.5,
        "tpr": 0.5,
        "fpr": 0.5,
        "fnr": 0.5,
        "precision": 0.5,
    }
    assert found.by_group.index.name == "sensitive_feature_0"
    assert found.cells is not None
    assert found.cells.to_dict("list") == {0: [2, 1], 1: [2, 1]}
    assert found.settings["reference"] == "sensitive_feature_0=a"
    difference = at(found.disparities, "sensitive_feature_0=b", "accuracy")
    assert difference["difference"] == 0.5
    assert difference["ratio"] == 2.0
    assert found.gaps["value"].to_dict() == {
        "accuracy_difference": 0.5,
        "demographic_parity_difference": 0.0,
        "equalized_odds_difference": 0.5,
    }
    assert found.gaps.loc["accuracy_difference", "lowest"] == "sensitive_feature_0=a"
    assert found.worst.loc["worst_cell_accuracy", "name"] == "sensitive_feature_0=a, y=0"
    assert found.warnings == [
        "Small cells, fewer than 2 rows: sensitive_feature_0=b, y=0 (1); "
        "sensitive_feature_0=b, y=1 (1). Read their intervals."
    ]


def test_undefined_is_nan_through_differences_ratios_and_gaps() -> None:
    found = audit([1, 0, 0, 0], [1, 0, 0, 0], sensitive_features=["a", "a", "b", "b"], n_boot=9)
    assert np.isnan(at(found.by_group, "b")["tpr"])
    assert at(found.disparities, "sensitive_feature_0=b", "tpr").isna().all()
    assert np.isnan(at(found.disparities, "sensitive_feature_0=b", "fpr")["ratio"])  # 0 / 0
    assert found.gaps.loc["equalized_odds_difference", ["value", "lowest", "p"]].isna().all()
    assert found.gaps.loc["accuracy_difference", "value"] == 0
    assert any("no row with y=1" in message for message in found.warnings)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples(), st.integers(0, 2**32 - 1))
def test_rows_without_a_group_change_the_overall_figures_only(sample: Sample, seed: int) -> None:
    is_known = np.random.default_rng(seed).random(len(sample.y_true)) < 0.7
    is_known[: len(is_known) // 2 + 1] = True
    is_known[-1] = False

    def audited(rows: Any, features: pd.DataFrame) -> Audit:
        return audit(
            sample.y_true[rows],
            sample.y_pred[rows],
            sensitive_features=features[rows],
            y_score=sample.y_score[rows],
            sample_weight=np.maximum(sample.weight[rows], 0.5),
            n_boot=9,
        )

    every = np.ones(len(is_known), dtype=np.bool_)
    missing = sample.features.assign(sex=sample.features["sex"].where(is_known))
    with pytest.warns(MetricsWarning, match=f"{(~is_known).sum()} of {len(is_known)} rows lack"):
        found = audited(every, missing)
    try:
        known = audited(is_known, sample.features)
    except ValueError as refused:  # too few rows for so many groups
        assume("values in" not in str(refused))
        raise
    first, second = (each.by_group.query("n > 0") for each in (found, known))
    pd.testing.assert_frame_equal(first, second, rtol=1e-12, atol=1e-12)
    assert found.matched is not None
    assert list(found.matched.index[1:]) == list(known.intervals.index.unique("group")[1:])
    whole = audited(every, sample.features).overall
    pd.testing.assert_series_equal(found.overall, whole, rtol=1e-12, atol=1e-12)
    assert found.settings["n_unknown"] == (~is_known).sum()


def test_rows_without_a_group_are_counted_and_shown() -> None:
    features = pd.DataFrame({"sex": ["f", None, "m", "m"], "race": ["x", "x", np.nan, "x"]})
    with pytest.warns(MetricsWarning, match="2 of 4 rows lack"):
        found = audit([0, 1, 0, 1], [0, 1, 1, 1], sensitive_features=features)
    assert found.by_group["n"].sum() == 2
    assert found.overall["accuracy"] == 0.75
    assert found.settings["n_unknown"] == 2
    assert found.warnings[0].startswith("2 of 4 rows")


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (pd.Series(["f", "m"], name="sex"), ["sex=f", "sex=m"]),
        (pd.Series(["f", "m"]), ["sensitive_feature_0=f", "sensitive_feature_0=m"]),
        (["f", "m"], ["sensitive_feature_0=f", "sensitive_feature_0=m"]),
        (np.array([[0, 1], [1, 1]]), None),
        ({"sex": ["f", "m"], "race": ["x", "x"]}, ["sex=f, race=x", "sex=m, race=x"]),
        (pd.DataFrame({"sex": pd.Categorical(["f", "m"])}), ["sex=f", "sex=m"]),
        (pd.DataFrame({"sex": [True, False]}, index=[7, 9]), ["sex=False", "sex=True"]),
    ],
)
def test_features_of_any_kind_name_the_groups(features: Any, names: list[str] | None) -> None:
    names = names or [f"sensitive_feature_0={i}, sensitive_feature_1=1" for i in (0, 1)]
    found = audit([0, 1], [0, 1], sensitive_features=features, n_boot=1)
    assert list(found.intervals.index.unique("group")) == ["overall", *names]


@pytest.mark.parametrize(
    ("y_true", "y_pred", "favourable", "expected"),
    [
        ([-1, 1, 1], [1, 1, 1], None, 1),
        (["no", "yes", "yes"], ["yes"] * 3, None, "yes"),
        (["no", "yes", "yes"], ["no"] * 3, "no", "no"),
        ([False, True, True], [1, 1, 1], None, 1),
        ([0.0, 1.0, 1.0], [True] * 3, None, 1),
        ([1, 1, 1], [1, 1, 1], None, 1),
    ],
)
def test_labels_are_any_two_values(
    y_true: Any, y_pred: Any, favourable: Any, expected: Any
) -> None:
    found = audit(
        y_true, y_pred, sensitive_features=["a", "a", "b"], favourable=favourable, n_boot=1
    )
    assert found.settings["favourable"] == expected
    assert found.overall["selection_rate"] == 1


def test_the_reference_is_the_largest_group_or_the_one_asked_for() -> None:
    sample = table_sample(400)
    arguments = (sample.y_true, sample.y_pred)
    largest = audit(*arguments, sensitive_features=sample.features["sex"], n_boot=1)
    asked = audit(
        *arguments, sensitive_features=sample.features["sex"], reference="sex=female", n_boot=1
    )
    assert largest.settings["reference"] == "sex=male"
    there = at(largest.disparities, "sex=female", "accuracy")
    back = at(asked.disparities, "sex=male", "accuracy")
    np.testing.assert_allclose(there[["low", "high"]], -back[["high", "low"]])


def test_the_same_seed_gives_the_same_audit() -> None:
    sample = table_sample(400)
    first, second = (
        audit(sample.y_true, sample.y_pred, sensitive_features=sample.features) for _ in range(2)
    )
    pd.testing.assert_frame_equal(first.gaps, second.gaps)
    assert first.settings == second.settings


def test_scores_that_are_no_probabilities_have_an_auc_only() -> None:
    found = audit(
        [0, 1, 0, 1], [0, 1, 0, 1], sensitive_features=list("aabb"), y_score=[-3.0, 5.0, 0.0, 1.0]
    )
    assert found.overall["auc"] == 1
    assert found.overall[["brier", "ece"]].isna().all()
    assert found.intervals.loc[("overall", "auc"), ["low", "high"]].isna().all()  # no variance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": [0, 1, 2, 1], "task": "binary"}, "must hold two values, got 3"),
        ({"y_true": [0, 1, 2, 1], "favourable": 1}, "`favourable` is of two labels"),
        ({"task": "ranking"}, "`task` must be auto, binary, multiclass or regression"),
        ({"y_true": ["a"] * 4}, "must hold two values, got 1"),
        ({"y_true": [0, 1, None, 1]}, "`y_true` has 1 missing"),
        ({"y_true": []}, "at least one row"),
        ({"y_true": [[0, 1], [1, 0]]}, "must be a column"),
        ({"y_pred": [0, 1, 0.3, 1]}, "got 0.3. Scores belong in `y_score`"),
        ({"y_pred": ["0", "1", "0", "1"]}, "must hold values of `y_true`"),
        ({"y_pred": [0, 1, 0]}, "`y_pred` must have one value for each of 4 rows, got 3"),
        ({"y_score": [0.1, np.nan, 0.2, 0.3]}, "`y_score` has 1 missing"),
        ({"sensitive_features": ["a", "b"]}, "`sensitive_features` must have one value"),
        ({"sensitive_features": [None] * 4}, "has no value in any row"),
        ({"sensitive_features": pd.DataFrame(index=range(4))}, "at least one column"),
        ({"sensitive_features": [1, "1", 1, 1]}, "print alike"),
        ({"sensitive_features": {"a": ["x", None] * 2, "b": [None, "y"] * 2}}, "in every row"),
        ({"favourable": "yes"}, "`favourable` must be one of"),
        ({"reference": "sex=x"}, "`reference` must be a group"),
        ({"confidence": 95}, "`confidence` must be between 0 and 1"),
        ({"confidence": math.nan}, "`confidence` must be between 0 and 1"),
        ({"n_boot": 0}, "`n_boot` must be at least 1"),
        ({"min_group_size": -1}, "`min_group_size` must be 0 or more"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "y_true": [0, 1, 0, 1],
        "y_pred": [0, 1, 1, 1],
        "sensitive_features": ["a", "a", "b", "b"],
    }
    with pytest.raises(ValueError, match=message):
        audit(**(arguments | change))


def test_a_feature_that_is_unique_per_row_is_refused() -> None:
    rows = np.arange(200)
    for n in (4, 40, 200):
        with pytest.raises(ValueError, match=f"has {n} values in {n} rows"):
            audit(rows[:n] % 2, rows[:n] % 2, sensitive_features={"id": rows[:n]})
    with pytest.raises(ValueError, match="combinations"):
        audit(rows % 2, rows % 2, sensitive_features=dict.fromkeys("abc", rows % 50))


def test_an_audit_costs_no_warning_on_plain_rows() -> None:
    sample = table_sample(400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit(
            sample.y_true,
            sample.y_pred,
            sensitive_features=sample.features,
            y_score=sample.y_score,
        )
