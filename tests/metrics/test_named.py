import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import true_negative_rate
from hypothesis import given, settings
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    matthews_corrcoef,
    mean_pinball_loss,
    median_absolute_error,
    precision_score,
    roc_auc_score,
)

from fairclip.metrics import Audit, audit
from tests.metrics._inputs import Sample, class_samples, number_samples, samples, table_sample
from tests.metrics._properties import Oracle, assert_brackets, assert_figures_are, at

Y, P, G = [0, 1, 0, 1], [0, 1, 1, 1], list("aabb")


def _audit(sample: Sample, metrics: Any, **options: Any) -> Audit:
    return audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        sample_weight=sample.weight,
        metrics=metrics,
        n_boot=1,
        **options,
    )


def _nan_where_it_warns(metric: Oracle) -> Oracle:
    def asked(y_true: Any, second: Any, sample_weight: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                return float(metric(y_true, second, sample_weight=sample_weight))
            except (UserWarning, RuntimeWarning, ValueError):
                return float("nan")

    return asked


def _true_negative_rate(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
    """Return fairlearn's, which is 0 where it is undefined."""
    if not (y_true == 0).any():
        return np.nan
    return float(true_negative_rate(y_true, y_pred, sample_weight=sample_weight))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_metrics_by_name_are_those_of_metric_frame(sample: Sample) -> None:
    oracles = {
        "f1_score": f1_score,
        "matthews_corrcoef": matthews_corrcoef,
        "true_negative_rate": _true_negative_rate,
    }
    found = _audit(sample, list(oracles))
    assert list(found.overall.index[-3:]) == list(oracles)
    assert found.settings["metrics"] == list(oracles)
    quiet = {name: _nan_where_it_warns(metric) for name, metric in oracles.items()}
    assert_figures_are(found, quiet, sample, sample.weight)
    assert_brackets(found.intervals)
    undefined = found.by_group.loc[found.by_group["n"] > 0, list(oracles)].isna().sum().sum()
    said = [message for message in found.warnings if message.startswith("Undefined: ")]
    assert sum(name in message for name in oracles for message in said) >= undefined


@settings(derandomize=True, deadline=None, max_examples=15)
@given(samples())
def test_metrics_of_scores_are_given_the_scores(sample: Sample) -> None:
    oracles = {
        "average_precision_score": average_precision_score,
        "roc_auc_score": roc_auc_score,
        "brier_score_loss": brier_score_loss,
    }
    found = _audit(sample, list(oracles), y_score=sample.y_score)
    quiet = {name: _nan_where_it_warns(metric) for name, metric in oracles.items()}
    assert_figures_are(found, quiet, sample, sample.weight, sample.y_score)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(class_samples())
def test_functions_of_several_labels_are_given_the_labels(sample: Sample) -> None:
    values = np.union1d(sample.y_true, sample.y_pred)
    metric = partial(f1_score, labels=values, average="weighted", zero_division=0)
    found = _audit(sample, {"f1": metric}, task="multiclass")
    assert_figures_are(found, {"f1": _nan_where_it_warns(metric)}, sample, sample.weight)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(number_samples())
def test_functions_of_numbers_are_given_the_numbers(sample: Sample) -> None:
    metrics = {"median": median_absolute_error, "pinball": partial(mean_pinball_loss, alpha=0.9)}
    found = _audit(sample, metrics, task="regression")
    scale = max(1.0, float(np.abs([sample.y_true, sample.y_pred]).max()))
    quiet = {name: _nan_where_it_warns(metric) for name, metric in metrics.items()}
    assert_figures_are(found, quiet, sample, sample.weight, scale=scale)


def test_a_function_of_ones_own_without_weights() -> None:
    def n_wrong(y_true: Any, y_pred: Any) -> int:
        return int((y_true != y_pred).sum())

    found = audit(
        ["no", "yes", "no", "yes"],
        ["no", "yes", "yes", "yes"],
        sensitive_features=G,
        metrics={"wrong": n_wrong, "rate": lambda y, p: float(np.mean(p == y))},
        n_boot=200,
    )
    assert found.overall["wrong"] == 1
    assert found.by_group["wrong"].tolist() == [0, 1]
    assert found.overall["rate"] == found.overall["accuracy"]
    row = at(found.intervals, "overall", "wrong")
    assert row["low"] <= 1 <= row["high"]
    assert row["n"] == 4
    assert row["method"] == "bootstrap, 200 draws"
    assert at(found.disparities, "sensitive_feature_0=b", "wrong")["difference"] == 1
    with pytest.raises(ValueError, match="wrong takes no `sample_weight`, which these rows need"):
        audit(Y, P, sensitive_features=G, sample_weight=[1] * 4, metrics={"wrong": n_wrong})


def test_two_labels_are_given_as_0_and_1() -> None:
    def of_ones(y_true: Any, y_pred: Any) -> float:
        return float(y_true.sum() + 10 * y_pred.sum())

    y, p = ["yes", "no", "no", "no"], ["no", "no", "yes", "no"]
    found = audit(y, p, sensitive_features=G, favourable="no", metrics={"s": of_ones}, n_boot=1)
    assert found.overall["s"] == 33


def test_what_is_undefined_is_nan_with_the_words_of_scikit_learn() -> None:
    y, p = [0, 1, 0, 0], [0, 1, 0, 0]  # b has neither label nor prediction 1
    found = audit(y, p, sensitive_features=G, metrics=["f1_score"], n_boot=50)
    assert found.by_group["f1_score"].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    message = next(m for m in found.warnings if m.startswith("Undefined: f1_score"))
    assert message.startswith(
        "Undefined: f1_score in sensitive_feature_0=b (F-score is ill-defined"
    )
    assert np.isnan(found.difference()["f1_score"])
    assert at(found.disparities, "sensitive_feature_0=b", "f1_score").isna().all()


def test_a_warning_about_the_function_itself_is_not_about_the_rows() -> None:
    def old(y_true: Any, y_pred: Any) -> float:
        warnings.warn("old is now called new", FutureWarning, stacklevel=2)
        return float(np.mean(y_true == y_pred))

    found = audit(Y, P, sensitive_features=G, metrics={"old": old}, n_boot=1)
    assert found.overall["old"] == 0.75


def test_errors_of_a_function_are_its_own() -> None:
    def broken(y_true: Any, y_pred: Any) -> float:
        raise RuntimeError("no such file")

    def divides(y_true: Any, y_pred: Any) -> float:
        return 1 / int((y_true * 0).sum())

    with pytest.raises(RuntimeError, match="no such file"):
        audit(Y, P, sensitive_features=G, metrics={"broken": broken}, n_boot=1)
    found = audit(Y, P, sensitive_features=G, metrics={"divides": divides}, n_boot=1)
    assert found.by_group["divides"].isna().all()
    assert any("divides in all rows (division by zero)" in m for m in found.warnings)


def test_intervals_by_name_are_about_those_of_the_formula() -> None:
    sample = table_sample(1000)
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features["sex"],
        y_score=sample.y_score,
        metrics={"precision_score": precision_score, "by_name": log_loss},
        n_boot=200,
    ).intervals
    for name, figure in (("precision_score", "precision"), ("by_name", "log_loss")):
        for group in ("overall", "sex=female"):
            by_name, by_formula = at(found, group, name), at(found, group, figure)
            assert by_name["value"] == pytest.approx(by_formula["value"], abs=1e-12)
            width = by_formula["high"] - by_formula["low"]
            assert by_name["high"] - by_name["low"] == pytest.approx(width, rel=0.3)


def test_the_number_of_calls_stays_bounded() -> None:
    calls = []

    def counted(y_true: Any, y_pred: Any) -> float:
        calls.append(len(y_true))
        return 0.0

    rows = np.arange(400)
    found = audit(
        rows % 2, rows % 2, sensitive_features={"g": rows % 40}, metrics={"counted": counted}
    )
    assert len(calls) == 41 * (1 + 100)
    assert at(found.intervals, "overall", "counted")["method"] == "bootstrap, 100 draws"


def _an_array(y_true: Any, y_pred: Any) -> Any:
    return np.array([0.5, 0.5])


def _three(y_true: Any, y_pred: Any, rows: Any) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("no_such_score", ValueError, "there is no 'no_such_score' in fairlearn.metrics or skl"),
        (["MetricFrame"], ValueError, "there is no 'MetricFrame'"),
        ("demographic_parity_difference", ValueError, "compares groups. Name the metric"),
        ("equalized_odds_ratio", ValueError, "compares groups"),
        ("accuracy_score_difference", ValueError, "compares groups"),
        ("selection_rate_ratio", ValueError, "compares groups"),
        ("roc_auc_score", ValueError, "roc_auc_score is of scores. Pass them too"),
        ("confusion_matrix", ValueError, "confusion_matrix must return one number"),
        ({"mine": _an_array}, ValueError, "mine must return one number, got array"),
        ({"mine": _three}, ValueError, r"mine cannot be called as mine\(y_true, y_pred\)"),
        ({"mine": 3}, TypeError, "mine must be a function, got 3"),
        ({"tpr": f1_score}, ValueError, r"\['tpr'\] are taken"),
        ({"n": f1_score, "weight": f1_score}, ValueError, r"\['n', 'weight'\] are taken"),
    ],
)
def test_bad_metrics_are_refused(metrics: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        audit(Y, P, sensitive_features=G, metrics=metrics, n_boot=1)


def test_rates_of_fairlearn_are_undefined_without_the_rows_that_they_look_at() -> None:
    y, p = [0, 1, 0, 1, 1, 1], [0, 1, 1, 1, 0, 1]
    found = audit(
        y, p, sensitive_features=list("aaabbb"), metrics=["false_positive_rate"], n_boot=9
    )
    assert found.by_group["false_positive_rate"].isna().tolist() == [False, True]
    assert any("false_positive_rate in sensitive_feature_0=b" in m for m in found.warnings)


def test_a_metric_that_returns_no_number_is_refused_by_name() -> None:
    for value in (None, "hi"):
        with pytest.raises(ValueError, match="`metrics`: odd must return one number"):
            audit(Y, P, sensitive_features=G, metrics={"odd": lambda y, p, v=value: v}, n_boot=1)
