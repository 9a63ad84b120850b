from typing import Any

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from fairclip.metrics import Audit, audit
from tests.metrics._inputs import Sample, samples, table_sample
from tests.metrics._properties import assert_brackets, at
from tests.metrics.test_audit import ORACLES

RATES = ["selection_rate", "tpr", "fpr", "accuracy", "precision"]


def _audit(sample: Sample, scores: object = None) -> Audit:
    return audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features["race"],
        y_score=sample.y_score if scores is None else scores,
        sample_weight=sample.weight,
        n_boot=1,
    )


def _rows(sample: Sample, group: str) -> NDArray[np.bool_]:
    if group == "overall":
        return np.ones(len(sample.y_true), dtype=np.bool_)
    return np.asarray(sample.features["race"] == group.removeprefix("race="))


def _rates(sample: Sample, rows: NDArray[np.bool_], threshold: float) -> list[float]:
    """Return `RATES` of the rows cut at the threshold, by scikit-learn."""
    y, w = sample.y_true[rows], sample.weight[rows]
    selected = (sample.y_score[rows] >= threshold).astype(np.int64)
    if not w.any():
        return [np.nan] * len(RATES)
    return [float(ORACLES[rate](y, selected, sample_weight=w)) for rate in RATES]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples(), st.integers(0, 12))
def test_a_cut_of_the_sweep_is_the_audit_of_that_cut(sample: Sample, position: int) -> None:
    sweep = _audit(sample).sweep
    assert sweep is not None
    thresholds = sweep.index.unique("threshold")
    assert thresholds.is_monotonic_decreasing
    threshold = float(thresholds[min(position, len(thresholds) - 1)])
    selected = (sample.y_score >= threshold).astype(np.int64)
    cut = audit(
        sample.y_true,
        selected,
        sensitive_features=sample.features["race"],
        sample_weight=sample.weight,
        n_boot=1,
    )
    found: Any = sweep.xs(threshold, level="threshold")
    values = cut.intervals["value"].unstack("metric").loc[found.index, RATES]
    pd.testing.assert_frame_equal(found[RATES], values, check_names=False, rtol=0, atol=1e-12)
    if not cut.by_group[RATES].isna().any().any():
        oracle = MetricFrame(
            metrics={rate: ORACLES[rate] for rate in RATES},
            y_true=sample.y_true,
            y_pred=selected,
            sensitive_features=sample.features["race"],
            sample_params={rate: {"sample_weight": sample.weight} for rate in RATES},
        )
        np.testing.assert_allclose(
            found.drop("overall")[RATES], oracle.by_group.astype(np.float64), rtol=0, atol=1e-12
        )


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_the_sweep_lies_on_the_roc_curve(sample: Sample) -> None:
    sweep = _audit(sample).sweep
    assert sweep is not None
    for group in sweep.index.unique("group"):
        rows = _rows(sample, group)
        y, s, w = (each[rows] for each in (sample.y_true, sample.y_score, sample.weight))
        found = at(sweep, group)
        assert (found["n"] == rows.sum()).all()
        assert not (found[RATES] > 1).any().any()
        if w.any():
            assert found["selection_rate"].iloc[[0, -1]].tolist() == pytest.approx([0, 1])
        if min(w[y == 0].sum(), w[y == 1].sum()) == 0:
            continue
        fpr, tpr, _ = roc_curve(y, s, sample_weight=w, drop_intermediate=False)
        distance = np.abs(found[["fpr", "tpr"]].to_numpy()[:, None] - np.stack([fpr, tpr], 1))
        assert distance.max(2).min(1).max() < 1e-12
        assert distance.max(2).min(0).max() < 1e-12  # few distinct scores: each is a cut


@settings(derandomize=True, deadline=None, max_examples=15)
@given(samples())
def test_matched_groups_select_as_near_to_all_rows_as_they_can(sample: Sample) -> None:
    found = _audit(sample)
    assert found.matched is not None
    wanted = found.overall["selection_rate"]
    for group, row in found.matched.iterrows():
        rows = _rows(sample, str(group))
        assert row["n"] == rows.sum()
        if not sample.weight[rows].any():
            assert row.drop("n").isna().all()
            continue
        cuts = [np.inf, *np.unique(sample.y_score[rows])]
        nearest = min(abs(_rates(sample, rows, cut)[0] - wanted) for cut in cuts)
        assert abs(row["selection_rate"] - wanted) <= nearest + 1e-12
        expected = _rates(sample, rows, row["threshold"])
        np.testing.assert_allclose(row[RATES].astype(np.float64), expected, rtol=0, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_calibration_is_that_of_a_loop_over_bins(sample: Sample) -> None:
    calibration = _audit(sample).calibration
    assert calibration is not None
    assert_brackets(calibration, "observed")
    rows: Any = calibration.iterrows()
    for (group, k), row in rows:
        s = sample.y_score
        inside = _rows(sample, group) & (s >= (k - 1) / 10) & ((s < k / 10) | (k == 10))
        w = sample.weight[inside]
        expected = [np.nan, np.nan]
        if w.any():
            expected = [np.average(each[inside], weights=w) for each in (s, sample.y_true)]
        assert row["n"] == inside.sum()
        np.testing.assert_allclose(row[["mean_score", "observed"]], expected, rtol=0, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_calibration_is_that_of_scikit_learn(sample: Sample) -> None:
    scores = 0.03 + 0.93 * sample.y_score  # off the edges of the bins
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features["race"],
        y_score=scores,
        n_boot=1,
    ).calibration
    assert found is not None
    for group in found.index.unique("group"):
        rows = _rows(sample, group)
        observed, mean = calibration_curve(sample.y_true[rows], scores[rows], n_bins=10)
        filled = at(found, group).query("n > 0")
        np.testing.assert_allclose(filled["observed"], observed, rtol=0, atol=1e-12)
        np.testing.assert_allclose(filled["mean_score"], mean, rtol=0, atol=1e-12)


def test_groups_share_at_most_102_cuts_of_many_scores() -> None:
    found = _audit(table_sample())
    assert found.sweep is not None
    cuts = found.sweep.index.unique("threshold")
    assert len(found.sweep) == len(cuts) * (1 + len(found.by_group))
    assert 50 < len(cuts) <= 102
    assert cuts[0] == np.inf


def test_scores_of_any_scale_have_a_sweep_and_no_calibration() -> None:
    y = [0, 1, 0, 1]
    found = audit(y, y, sensitive_features=list("aabb"), y_score=[-3.0, 5.0, 0.0, 1.0], n_boot=1)
    assert found.calibration is None
    assert found.sweep is not None
    assert found.sweep["tpr"]["overall"].tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert found.matched is not None
    assert found.matched["threshold"].to_dict() == {
        "overall": 1.0,
        "sensitive_feature_0=a": 5.0,
        "sensitive_feature_0=b": 1.0,
    }


def test_no_scores_no_curves() -> None:
    found = audit([0, 1], [0, 1], sensitive_features=["a", "b"], n_boot=1)
    assert (found.calibration, found.sweep, found.matched) == (None, None, None)
