"""Comparisons of several labels and of numbers, with weights, added metrics and scores."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from fairclip.metrics import Tradeoff, audit, tradeoff
from tests.metrics._inputs import Sample, class_samples, number_samples, samples, table_sample
from tests.metrics._properties import assert_brackets, assert_same_audits, at

TASKS = [("binary", samples()), ("multiclass", class_samples()), ("regression", number_samples())]
any_task = st.sampled_from(TASKS).flatmap(lambda each: st.tuples(st.just(each[0]), each[1]))


def _wrong(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    return float(np.average(y_true != y_pred, weights=sample_weight))


def _f1(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
    found, true, chosen = (each @ sample_weight for each in (y_true * y_pred, y_true, y_pred))
    return float(2 * found / (true + chosen))


def _other(sample: Sample) -> Any:
    """Return the predictions of another model, of the same labels."""
    return np.roll(sample.y_pred, 1)


def _other_scores(sample: Sample) -> Any:
    return sample.y_score[::-1]


def _compare(task: str, sample: Sample, candidate: Any, scores: Any, n_boot: int) -> Tradeoff:
    has_scores = task != "regression"
    return tradeoff(
        {"unclipped": sample.y_pred, "cap": candidate},
        sample.y_true,
        sensitive_features=sample.features,
        y_scores={"unclipped": sample.y_score, "cap": scores} if has_scores else None,
        sample_weight=sample.weight,
        task=task,
        metrics={"wrong": _wrong},
        n_boot=n_boot,
    )


@settings(derandomize=True, deadline=None, max_examples=25)
@given(any_task)
def test_changes_are_differences_of_audits(drawn: tuple[str, Sample]) -> None:
    task, sample = drawn
    found = _compare(task, sample, _other(sample), _other_scores(sample), n_boot=3)
    changes = found.changes
    scale = max(1.0, float(np.abs(sample.y_true).max())) if task == "regression" else 1.0
    np.testing.assert_allclose(
        changes["change"],
        changes["candidate"] - changes["baseline"],
        rtol=1e-9,
        atol=1e-12 * scale,
    )
    assert_brackets(changes, "change")
    names = set(changes.index.unique("metric"))
    untouched = {"base_rate", "mean_true", "ece"}
    assert {"wrong"} <= names
    for metric in found.audits["cap"].overall.index:
        kind = metric.split("[")[0]
        assert (metric in names) == (kind not in untouched and not metric.startswith("precision["))
    for arm, alone in found.audits.items():
        for figure in alone.overall.index.intersection(found.table.columns):
            value = found.table.loc[arm, figure]
            assert value == pytest.approx(alone.overall[figure], rel=1e-9, nan_ok=True)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(any_task)
def test_an_arm_has_the_audit_that_it_has_alone(drawn: tuple[str, Sample]) -> None:
    task, sample = drawn
    found = _compare(task, sample, sample.y_pred[::-1], _other_scores(sample), n_boot=3)
    alone = audit(
        sample.y_true,
        sample.y_pred[::-1],
        sensitive_features=sample.features,
        y_score=None if task == "regression" else _other_scores(sample),
        sample_weight=sample.weight,
        task=task,
        metrics={"wrong": _wrong},
        n_boot=3,
    )
    assert_same_audits(found.audits["cap"], alone)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(any_task)
def test_equal_models_do_not_change(drawn: tuple[str, Sample]) -> None:
    task, sample = drawn
    found = _compare(task, sample, sample.y_pred.copy(), sample.y_score.copy(), n_boot=20)
    changes = found.changes
    assert (changes["change"].isna() == changes["baseline"].isna()).all()
    assert (changes["change"].dropna() == 0).all()
    exact = ~changes.index.get_level_values("metric").str.contains("rate|accuracy|tpr|fpr|fnr")
    bounds = changes.loc[exact, ["low", "high"]].abs().max(axis=1).fillna(0)  # NaN: none varies
    assert (bounds <= 1e-9 * changes.loc[exact, "baseline"].abs().max()).all()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_matched_arms_select_as_near_to_the_baseline_as_they_can(sample: Sample) -> None:
    scores = {"unclipped": sample.y_score, "cap": _other_scores(sample)}
    found = _compare("binary", sample, _other(sample), scores["cap"], n_boot=1)
    assert found.matched is not None
    assert list(found.matched.columns) == [name for name in found.table if name != "pareto"]
    wanted = found.audits["unclipped"].overall["selection_rate"]
    w = sample.weight
    for arm, score in scores.items():
        row = found.matched.loc[arm]
        cuts = [np.inf, *np.unique(score)]
        reached = np.array([np.average(score >= cut, weights=w) for cut in cuts])
        nearest = np.abs(reached - wanted).min()
        assert abs(row["selection_rate"] - wanted) <= nearest + 1e-12
        cut = max(
            cut
            for cut, rate in zip(cuts, reached, strict=True)
            if rate == pytest.approx(row["selection_rate"], abs=1e-12)
        )
        selected = (score >= cut) * 1
        expected = accuracy_score(sample.y_true, selected, sample_weight=w)
        assert row["accuracy"] == pytest.approx(expected, abs=1e-12)
        if min(w[sample.y_true == 0].sum(), w[sample.y_true == 1].sum()) > 0:
            assert row["balanced_accuracy"] == pytest.approx(
                balanced_accuracy_score(sample.y_true, selected, sample_weight=w), abs=1e-12
            )
            assert row["auc"] == pytest.approx(
                roc_auc_score(sample.y_true, score, sample_weight=w), abs=1e-12
            )


def test_arms_are_matched_by_scores_of_two_labels_only() -> None:
    y = [0, 1, 2, 0, 1, 2]
    scores = np.full((6, 3), 1 / 3)
    options: dict[str, Any] = {"sensitive_features": list("aaabbb"), "n_boot": 1}
    several = tradeoff({"unclipped": y}, y, y_scores={"unclipped": scores}, **options)
    assert several.matched is None
    assert tradeoff({"unclipped": [0, 1] * 3}, [0, 1] * 3, **options).matched is None


def test_a_regression_worked_by_hand() -> None:
    y = [1.0, 2.0, 3.0, 4.5]
    arms = {
        "unclipped": [1.0, 2.0, 2.0, 2.5],  # errors 0, 0 and -1, -2
        "cap": [1.5, 2.5, 3.0, 3.5],  # errors .5, .5 and 0, -1
        "both": [2.0, 3.0, 2.0, 2.5],  # errors 1, 1 and -1, -2
    }
    found = tradeoff(arms, y, sensitive_features={"g": list("aabb")}, n_boot=50)
    assert found.table["mae"].to_dict() == {"unclipped": 0.75, "cap": 0.5, "both": 1.25}
    assert found.table["worst_group_mae"].to_dict() == {"unclipped": 1.5, "cap": 0.5, "both": 1.5}
    assert found.table["mae_difference"].to_dict() == {"unclipped": 1.5, "cap": 0.0, "both": 0.5}
    assert found.table["pareto"].to_dict() == {"unclipped": False, "cap": True, "both": False}
    assert at(found.changes, "cap", "g=b", "mae")["change"] == -1.0
    assert at(found.changes, "cap", "g=a", "bias")["change"] == 0.5
    assert at(found.changes, "cap", "overall", "rmse")["change"] == pytest.approx(
        np.sqrt(1.5 / 4) - np.sqrt(5 / 4)
    )
    assert at(found.changes, "cap", "g=a", "r2")["change"] == -1.0
    assert found.matched is None


def test_a_weighted_change_worked_by_hand() -> None:
    # Of weight 8, 3 gained and 1 lost; 8² / (4 + 9 + 1 + 4) rows would be as sure.
    y, weight = [1, 1, 1, 1], [2, 3, 1, 2]
    found = tradeoff(
        {"unclipped": [0, 0, 1, 1], "cap": [0, 1, 0, 1]},
        y,
        sensitive_features=["a"] * 4,
        sample_weight=weight,
        n_boot=9,
    )
    row = at(found.changes, "cap", "sensitive_feature_0=a", "tpr")
    n = 64 / 18
    b, c = 3 / 8 * n, 1 / 8 * n
    half = 1.959963984540054 * np.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    assert row["change"] == pytest.approx(0.25)
    assert (row["low"], row["high"]) == pytest.approx(
        ((b - c) / (n + 2) - half, (b - c) / (n + 2) + half)
    )


def test_paired_intervals_are_narrower_than_unpaired_ones() -> None:
    sample = table_sample(1500)
    rng = np.random.default_rng(0)
    flipped = rng.random(1500) < 0.03
    candidate = np.where(flipped, 1 - sample.y_pred, sample.y_pred)
    found = tradeoff(
        {"unclipped": sample.y_pred, "cap": candidate},
        sample.y_true,
        sensitive_features=sample.features["sex"],
        metrics={"f1": _f1},
        n_boot=300,
    )
    for metric in ("accuracy", "precision", "f1"):
        change = at(found.changes, "cap", "overall", metric)
        alone = [at(each.intervals, "overall", metric) for each in found.audits.values()]
        unpaired = np.hypot(*(row["high"] - row["low"] for row in alone))
        assert 0 < change["high"] - change["low"] < 0.7 * unpaired


def test_an_undefined_metric_has_no_change() -> None:
    y = [0, 1, 0, 0]
    found = tradeoff(
        {"unclipped": [0, 1, 0, 0], "cap": [0, 1, 0, 1]},
        y,
        sensitive_features=list("aabb"),
        metrics="f1_score",
        n_boot=20,
    )
    row = at(found.changes, "cap", "sensitive_feature_0=b", "f1_score")
    assert np.isnan(row["baseline"])
    assert row["candidate"] == 0
    assert row[["change", "low", "high"]].isna().all()
    assert any(m.startswith("unclipped: Undefined: f1_score in sens") for m in found.warnings)


def test_too_many_labels_in_too_many_groups_are_refused() -> None:
    y = np.arange(4000) % 80
    arms = {"unclipped": y, "cap": y}
    with pytest.raises(ValueError, match="of 80 labels in 100 groups are too many cells"):
        tradeoff(arms, y, sensitive_features={"g": np.arange(4000) // 40}, n_boot=1)


def test_a_comparison_of_one_model_has_no_changes() -> None:
    found = tradeoff({"unclipped": [0, 1]}, [0, 1], sensitive_features=["a", "b"], n_boot=1)
    assert found.changes.empty
    assert list(found.changes.columns) == ["baseline", "candidate", "change", "low", "high"]
    assert isinstance(found.changes.index, pd.MultiIndex)
    assert found.changes.index.names == ["arm", "group", "metric"]
