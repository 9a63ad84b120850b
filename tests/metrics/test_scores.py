from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from fairclip.metrics import audit
from tests.metrics._inputs import Sample, class_samples, samples
from tests.metrics._properties import assert_figures_are, at

scores: Any = import_module("fairclip.metrics._scores")


def _auc(y_true: Any, y_score: Any, sample_weight: Any) -> float:
    if min(sample_weight[y_true == 0].sum(), sample_weight[y_true == 1].sum()) == 0:
        return float("nan")
    return float(roc_auc_score(y_true, y_score, sample_weight=sample_weight))


def _ece(y_true: Any, y_score: Any, sample_weight: Any) -> float:
    """Sum over bins of the weight's share times the distance of score and label."""
    total = 0.0
    for k in range(10):
        above = y_score >= k / 10
        inside = above & (y_score < (k + 1) / 10) if k < 9 else above
        if sample_weight[inside].any():
            score, label = (
                np.average(each[inside], weights=sample_weight[inside])
                for each in (y_score, y_true)
            )
            total += sample_weight[inside].sum() * abs(score - label)
    return float(total / sample_weight.sum())


def _labelled(metric: Any) -> Any:
    def asked(y_true: Any, y_score: Any, sample_weight: Any) -> float:
        return float(metric(y_true, y_score, labels=[0, 1], sample_weight=sample_weight))

    return asked


ORACLES = {
    "auc": _auc,
    "brier": lambda y, s, sample_weight: brier_score_loss(
        y, s, sample_weight=sample_weight, pos_label=1
    ),
    "log_loss": _labelled(log_loss),
    "ece": _ece,
}


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.booleans(), samples())
def test_figures_of_scores_are_those_of_scikit_learn(is_weighted: bool, sample: Sample) -> None:
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        y_score=sample.y_score,
        sample_weight=sample.weight if is_weighted else None,
        n_boot=1,
    )
    weight = sample.weight if is_weighted else np.ones(len(sample.y_true))
    assert_figures_are(found, ORACLES, sample, weight, sample.y_score)


def _of_classes(sample: Sample) -> dict[str, Any]:
    """Return oracles that take positions of rows second, since MetricFrame takes one column."""
    values = np.union1d(sample.y_true, sample.y_pred)

    def auc(y_true: Any, rows: Any, sample_weight: Any) -> float:
        probability = sample.y_score[rows]
        each = [
            _auc((y_true == value) * 1, probability[:, c], sample_weight)
            for c, value in enumerate(values)
        ]
        if not np.isnan(each).any():
            of_sklearn = roc_auc_score(
                y_true, probability, multi_class="ovr", labels=values, sample_weight=sample_weight
            )
            assert np.mean(each) == pytest.approx(of_sklearn, abs=1e-12)
        return float(np.mean(each))

    def brier(y_true: Any, rows: Any, sample_weight: Any) -> float:
        return float(
            brier_score_loss(
                y_true,
                sample.y_score[rows],
                labels=values,
                sample_weight=sample_weight,
                scale_by_half=False,
            )
        )

    def loss(y_true: Any, rows: Any, sample_weight: Any) -> float:
        return float(
            log_loss(y_true, sample.y_score[rows], labels=values, sample_weight=sample_weight)
        )

    def ece(y_true: Any, rows: Any, sample_weight: Any) -> float:
        probability = sample.y_score[rows]
        is_right = (values[probability.argmax(1)] == y_true) * 1
        return _ece(is_right, probability.max(1), sample_weight)

    return {"auc": auc, "brier": brier, "log_loss": loss, "ece": ece}


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.booleans(), class_samples())
def test_figures_of_several_scores_are_those_of_scikit_learn(
    is_weighted: bool, sample: Sample
) -> None:
    weight = sample.weight if is_weighted else np.ones(len(sample.y_true))
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        y_score=sample.y_score,
        sample_weight=sample.weight if is_weighted else None,
        task="multiclass",
        n_boot=1,
    )
    rows = np.arange(len(sample.y_true))
    assert_figures_are(found, _of_classes(sample), sample, weight, rows)
    assert (found.calibration, found.sweep, found.matched) == (None, None, None)


def test_the_brier_score_of_several_labels_is_not_halved() -> None:
    # Row 1: .1² + .3² + .4²; row 2: .5² + .5². As scikit-learn's default, whose range is [0, 2].
    y, probability = ["a", "b", "c"], [[0.6, 0.3, 0.1], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    found = audit(y, y, sensitive_features=["g"] * 3, y_score=probability, n_boot=1)
    assert found.overall["brier"] == pytest.approx((0.26 + 0.5 + 0) / 3)
    assert found.overall["brier"] == pytest.approx(brier_score_loss(y, probability))
    assert found.overall["log_loss"] == pytest.approx(-(np.log(0.6) + np.log(0.5)) / 3)
    # The highest are .6 (right), .5 (of a, wrong) and 1 (right).
    assert found.overall["ece"] == pytest.approx((0.4 + 0.5 + 0.0) / 3)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(samples())
def test_the_auc_and_its_influences_are_those_of_all_pairs(sample: Sample) -> None:
    y, s, w = sample.y_true, sample.y_score, sample.weight
    auc, influence = scores.auc_and_influence(y, s, w)
    right = (s[y == 0] < s[y == 1][:, None]) + 0.5 * (s[y == 0] == s[y == 1][:, None])
    positive, negative = w[y == 1], w[y == 0]
    if positive.sum() == 0 or negative.sum() == 0:
        assert np.isnan(auc)
        assert np.isnan(influence).all()
        return
    of_positive = right @ negative / negative.sum()
    of_negative = positive @ right / positive.sum()
    expected = positive @ of_positive / positive.sum()
    assert auc == pytest.approx(expected, abs=1e-12)
    for label, component, weight in ((1, of_positive, positive), (0, of_negative, negative)):
        n = weight.sum() ** 2 / (weight**2).sum()
        if n > 1 + 1e-9:
            factor = np.sqrt(n / (n - 1)) / weight.sum()
            np.testing.assert_allclose(
                influence[y == label], factor * weight * (component - expected), atol=1e-9
            )
        else:
            assert np.isnan(influence[y == label]).all()  # one row does not vary


@pytest.mark.parametrize("is_weighted", [False, True])
def test_delong_covers(is_weighted: bool) -> None:
    rng = np.random.default_rng(0)
    n_simulations, group = 1500, 60
    y = np.arange(group) % 3 == 0
    weights = rng.choice([0.5, 3.0], group) if is_weighted else np.ones(group)
    covered = []
    for _ in range(n_simulations):
        s = rng.normal(y, 1.0)  # AUC = Phi(1 / sqrt 2)
        auc, influence = scores.auc_and_influence(y.astype(np.int64), s, weights)
        covered.append(abs(auc - 0.7602499389) <= 1.96 * np.sqrt((influence**2).sum()))
    assert 0.92 < np.mean(covered) < 0.97


def test_calibration_error_worked_by_hand() -> None:
    # Bin [.1, .2): mean score .15, base rate 0; bin [.9, 1]: mean score .95, base rate .5.
    found = audit(
        [0, 0, 0, 1], [0, 0, 1, 1], sensitive_features=list("aaaa"), y_score=[0.1, 0.2, 0.9, 1.0]
    )
    assert found.overall["ece"] == pytest.approx(0.25 * 0.1 + 0.25 * 0.2 + 0.5 * 0.45)
    assert found.intervals.loc[("overall", "ece"), ["low", "high"]].isna().all()


def test_one_row_of_a_label_leaves_the_auc_without_bounds() -> None:
    y, score = [1, 0, 0, 0, 1, 1, 0, 0], [0.6, 0.7, 0.1, 0.3, 0.6, 0.5, 0.1, 0.8]
    found = audit(y, y, sensitive_features=list("aaaabbbb"), y_score=score, n_boot=1).intervals
    known = [
        at(found, f"sensitive_feature_0={group}", "auc")[["value", "low", "high"]].notna().tolist()
        for group in "ab"
    ]
    assert known == [[True, False, False], [True, True, True]]


def test_what_needs_probabilities_is_undefined_in_every_group_or_in_none() -> None:
    y = [0, 1, 0, 1]
    found = audit(y, y, sensitive_features=list("aabb"), y_score=[0.1, 0.2, -3.0, 0.5], n_boot=1)
    assert found.by_group[["brier", "log_loss", "ece"]].isna().all().all()
    assert found.calibration is None
    assert found.by_group["auc"].notna().all()
    several = [[0.2, 0.3, 0.5], [0.6, 0.6, -0.2], [0.1, 0.1, 0.8]]
    found = audit([0, 1, 2], [0, 1, 2], sensitive_features=list("aab"), y_score=several, n_boot=1)
    assert found.by_group[["brier", "log_loss", "ece"]].isna().all().all()


def test_probabilities_that_are_all_0_have_no_log_loss() -> None:
    found = audit(
        [0, 1, 2],
        [0, 1, 2],
        sensitive_features=list("aab"),
        y_score=[[0.2, 0.3, 0.5], [0.0, 0.0, 0.0], [0.1, 0.1, 0.8]],
        n_boot=1,
    )
    assert np.isnan(found.overall["log_loss"])
    assert found.overall["brier"] == pytest.approx((0.98 + 1 + 0.06) / 3)


@pytest.mark.parametrize(
    ("y_true", "y_score", "message"),
    [
        ([0, 1, 0], [[0.1, 0.9]] * 3, "`y_score` must be one column, of the favourable label"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "`y_score` must have 3 columns, one for each of 0, 1, 2"),
        ([0, 1, 2], [[0.1, 0.9]] * 3, "`y_score` must have 3 columns"),
        ([0, 1, 2], [[0.1, 0.4, 0.5]] * 2, "`y_score` must have one value for each of 3 rows"),
        ([0, 1, 2], [[0.1, 0.4, np.inf]] * 3, "`y_score` must be finite"),
        ([0.5, 1.0, 2.0], [0.1, 0.2, 0.3], "`y_score` is of labels"),
        ([0, 1, 0], ["a", "b", "c"], "`y_score` must hold numbers"),
    ],
)
def test_bad_scores_are_refused(y_true: Any, y_score: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audit(y_true, y_true, sensitive_features=list("aab"), y_score=y_score)
