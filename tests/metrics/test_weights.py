from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.metrics import Audit, audit
from tests.metrics._inputs import Sample, class_samples, number_samples, samples, table_sample
from tests.metrics._properties import assert_same_audits, at

TASKS = [("binary", samples()), ("multiclass", class_samples()), ("regression", number_samples())]
any_task = st.sampled_from(TASKS).flatmap(lambda each: st.tuples(st.just(each[0]), each[1]))


def _audit(task: str, sample: Sample, weight: Any, n_boot: int = 20, **rows: Any) -> Audit:
    at_rows = rows.get("rows", slice(None))
    return audit(
        sample.y_true[at_rows],
        sample.y_pred[at_rows],
        sensitive_features=sample.features.iloc[at_rows],
        y_score=None if task == "regression" else sample.y_score[at_rows],
        sample_weight=weight,
        task=task,
        n_boot=n_boot,
    )


@settings(derandomize=True, deadline=None, max_examples=40)
@given(any_task, st.integers(0, 2**32 - 1))
def test_whole_weights_are_repeated_rows(drawn: tuple[str, Sample], seed: int) -> None:
    task, sample = drawn
    weight = np.random.default_rng(seed).integers(1, 4, len(sample.y_true))
    weighted = _audit(task, sample, weight, n_boot=1)
    repeated = _audit(task, sample, None, n_boot=1, rows=np.repeat(np.arange(len(weight)), weight))
    scale = max(1.0, float(np.abs(sample.y_true).max())) if task == "regression" else 1.0

    def assert_close(found: Any, expected: Any) -> None:
        np.testing.assert_allclose(
            found.astype(np.float64), expected.astype(np.float64), rtol=1e-9, atol=1e-12 * scale
        )

    assert_close(weighted.overall, repeated.overall)
    figures = list(weighted.overall.index)
    assert_close(weighted.by_group[figures], repeated.by_group[figures])
    assert_close(weighted.by_group["weight"].fillna(0), repeated.by_group["n"])
    assert_close(weighted.gaps["value"], repeated.gaps["value"])
    assert_close(weighted.worst["value"], repeated.worst["value"])
    if weighted.matched is not None and repeated.matched is not None:
        assert_close(weighted.matched.drop(columns="n"), repeated.matched.drop(columns="n"))
    if weighted.calibration is not None and repeated.calibration is not None:
        columns = ["mean_score", "observed"]
        assert_close(weighted.calibration[columns], repeated.calibration[columns])
    if weighted.sweep is not None and repeated.sweep is not None:
        shared = weighted.sweep.index.intersection(repeated.sweep.index)  # cuts are of the rows
        assert len(shared) > 1
        rates = [name for name in weighted.sweep if name != "n"]
        assert_close(weighted.sweep.loc[shared, rates], repeated.sweep.loc[shared, rates])


@settings(derandomize=True, deadline=None, max_examples=20)
@given(any_task, st.sampled_from([0.1, 3.0, 1e6]))
def test_equal_weights_are_none(drawn: tuple[str, Sample], constant: float) -> None:
    task, sample = drawn
    plain = _audit(task, sample, None)
    equal = _audit(task, sample, np.full(len(sample.y_true), constant))
    pd.testing.assert_frame_equal(
        equal.by_group.drop(columns="weight"), plain.by_group, rtol=1e-9, atol=1e-12
    )
    for name in ("intervals", "disparities", "worst", "calibration", "sweep", "matched"):
        found, expected = getattr(equal, name), getattr(plain, name)
        assert (found is None) == (expected is None)
        if found is not None:
            pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-9)
    columns = ["value", "rate", "lowest", "highest"]  # p shuffles rows, not counts
    pd.testing.assert_frame_equal(equal.gaps[columns], plain.gaps[columns], rtol=1e-6, atol=1e-9)
    assert equal.warnings == plain.warnings


@settings(derandomize=True, deadline=None, max_examples=20)
@given(any_task, st.sampled_from([2.0**-20, 1e-3, 1e6]))
def test_the_scale_of_weights_does_not_matter(drawn: tuple[str, Sample], scale: float) -> None:
    task, sample = drawn
    found = _audit(task, sample, scale * sample.weight)
    found.by_group["weight"] /= scale
    assert_same_audits(
        found, _audit(task, sample, sample.weight), but=("data_sha256",), exactly=False
    )


def test_intervals_rest_on_the_effective_number_of_rows() -> None:
    # Weights 1, 1, 2, 4: 8² / (1 + 1 + 4 + 16) rows; 7 of 8 right. Of y=1: 1, 4, so 5² / 17.
    y, p = [0, 1, 0, 1], [1, 1, 0, 1]
    found = audit(y, p, sensitive_features=["a"] * 4, sample_weight=[1, 1, 2, 4], n_boot=1)
    z = 1.959963984540054
    for metric, share, n in (("accuracy", 7 / 8, 64 / 22), ("fpr", 1 / 3, 9 / 5)):
        row = at(found.intervals, "overall", metric)
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        assert row["value"] == pytest.approx(share)
        assert (row["low"], row["high"]) == pytest.approx((centre - half, centre + half))
    row = at(found.intervals, "overall", "tpr")
    assert (row["value"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(1 / (1 + z**2 * 17 / 25))
    assert row["n"] == 2
    assert at(found.worst, "worst_group_accuracy")["n"] == 4


def test_unequal_weights_widen_intervals() -> None:
    sample = table_sample(800)
    plain = audit(
        sample.y_true, sample.y_pred, sensitive_features=sample.features, y_score=sample.y_score
    )
    weight = np.where(np.arange(800) % 10 == 0, 20.0, 1.0)  # 4.0 times the rows' variance
    weighted = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        y_score=sample.y_score,
        sample_weight=weight,
    )
    for metric in ("accuracy", "tpr", "auc", "brier", "log_loss"):
        width = [
            at(found.intervals, "overall", metric)["high"]
            - at(found.intervals, "overall", metric)["low"]
            for found in (plain, weighted)
        ]
        kish = np.sqrt(800 * (weight**2).sum()) / weight.sum()
        assert width[1] / width[0] == pytest.approx(kish, rel=0.35)


def test_rows_of_weight_0_are_counted_and_weigh_nothing() -> None:
    y, p, g = [0, 1, 1, 0], [0, 1, 0, 1], list("aabb")
    found = audit(y, p, sensitive_features=g, sample_weight=[1, 3, 0, 0], n_boot=9)
    assert found.by_group["n"].tolist() == [2, 2]
    assert found.by_group["weight"].tolist() == [4.0, 0.0]
    assert at(found.by_group, "b").drop(["n", "weight"]).isna().all()
    assert found.overall["base_rate"] == 0.75
    assert found.gaps["value"].isna().all()
    assert found.difference().isna().all()
    assert at(found.worst, "worst_group_accuracy")["name"] == "sensitive_feature_0=a"


def test_the_audit_says_whether_rows_are_weighted() -> None:
    y, g = [0, 1, 0, 1], list("aabb")
    assert audit(y, y, sensitive_features=g, n_boot=1).settings["weighted"] is False
    found = audit(y, y, sensitive_features=g, sample_weight=pd.Series([1, 2, 3, 4]), n_boot=1)
    assert found.settings["weighted"] is True


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, -1, 1, 1], "`sample_weight` must be 0 or more"),
        ([0, 0, 0, 0], "not 0 in every row"),
        ([0, 0, 0, 1], "not 0 in every row that belongs to a group"),
        ([1, np.nan, 1, 1], "`sample_weight` has 1 missing"),
        ([1, np.inf, 1, 1], "`sample_weight` must be finite"),
        ([1, 1], "`sample_weight` must have one value for each of 4 rows"),
        (["x"] * 4, "`sample_weight` must hold numbers"),
    ],
)
def test_bad_weights_are_refused(weight: Any, message: str) -> None:
    y = [0, 1, 0, 1]
    with pytest.raises(ValueError, match=message):
        audit(y, y, sensitive_features=["a", "a", "b", None], sample_weight=weight)
