import warnings
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, selection_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
)

from fairclip.metrics import Audit, audit, summary
from tests.metrics._inputs import Sample, class_samples
from tests.metrics._properties import Oracle, assert_brackets, assert_figures_are, at


def _audit(sample: Sample, *, is_weighted: bool = True, n_boot: int = 1, **options: Any) -> Audit:
    return audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        sample_weight=sample.weight if is_weighted else None,
        task="multiclass",
        n_boot=n_boot,
        **options,
    )


def _mean(metric: Oracle, values: Any) -> Oracle:
    """Return the mean over all labels; scikit-learn's leaves out those that are undefined."""

    def asked(*columns: Any, sample_weight: Any) -> float:
        options = {"labels": values, "sample_weight": sample_weight, "zero_division": np.nan}
        each = metric(*columns, average=None, **options)
        if not np.isnan(each).any():
            macro = metric(*columns, average="macro", **options)
            assert each.mean() == pytest.approx(macro, abs=1e-12)
        return float(np.mean(each))

    return asked


def _balanced(y_true: Any, y_pred: Any, sample_weight: Any, values: Any) -> float:
    found = float(_mean(recall_score, values)(y_true, y_pred, sample_weight=sample_weight))
    if not np.isnan(found):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
            of_sklearn = balanced_accuracy_score(y_true, y_pred, sample_weight=sample_weight)
        assert found == pytest.approx(of_sklearn, abs=1e-12)
    return found


def _of_one(metric: Oracle, value: Any) -> Oracle:
    """Return the metric of one label against all others."""
    return lambda y_true, y_pred, sample_weight: metric(
        y_true == value, y_pred == value, sample_weight=sample_weight, zero_division=np.nan
    )


def _fpr(value: Any) -> Oracle:
    return lambda y_true, y_pred, sample_weight: (
        1
        - recall_score(
            y_true != value, y_pred != value, sample_weight=sample_weight, zero_division=np.nan
        )
    )


def _base_rate(value: Any) -> Oracle:
    return lambda y_true, _, sample_weight: np.average(y_true == value, weights=sample_weight)


def _oracles(values: Any, true_values: Any) -> dict[str, Oracle]:
    oracles: dict[str, Oracle] = {
        "accuracy": accuracy_score,
        "balanced_accuracy": partial(_balanced, values=true_values),
        "macro_precision": _mean(precision_score, values),
        "macro_f1": _mean(f1_score, values),
    }
    for value in values:
        oracles[f"base_rate[{value}]"] = _base_rate(value)
        oracles[f"selection_rate[{value}]"] = partial(selection_rate, pos_label=value)
        oracles[f"tpr[{value}]"] = _of_one(recall_score, value)
        oracles[f"fpr[{value}]"] = _fpr(value)
        oracles[f"precision[{value}]"] = _of_one(precision_score, value)
    return oracles


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.booleans(), class_samples())
def test_figures_are_those_of_metric_frame(is_weighted: bool, sample: Sample) -> None:
    found = _audit(sample, is_weighted=is_weighted)
    oracles = _oracles(np.union1d(sample.y_true, sample.y_pred), np.unique(sample.y_true))
    weight = sample.weight if is_weighted else np.ones(len(sample.y_true))
    assert_figures_are(found, oracles, sample, weight)
    assert list(found.overall.index) == list(oracles)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(class_samples())
def test_gaps_are_the_widest_differences_of_metric_frame(sample: Sample) -> None:
    race = sample.features["race"]
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=race,
        sample_weight=sample.weight,
        task="multiclass",
        n_boot=1,
    ).gaps
    values = np.union1d(sample.y_true, sample.y_pred)

    def widest(rows: Any, value: Any) -> float:
        """Return the gap in how often the label is predicted on these rows; NaN without weight."""
        weights = [sample.weight[rows & (race == group).to_numpy()].sum() for group in set(race)]
        if min(weights) == 0:
            return np.nan
        oracle = MetricFrame(
            metrics={"rate": partial(selection_rate, pos_label=value)},
            y_true=sample.y_true[rows],
            y_pred=sample.y_pred[rows],
            sensitive_features=race[rows],
            sample_params={"rate": {"sample_weight": sample.weight[rows]}},
        )
        return float(oracle.difference()["rate"])

    every = np.ones(len(race), dtype=np.bool_)
    parity = max(widest(every, value) for value in values)
    odds = [widest(sample.y_true == label, value) for label, value in product(values, values)]
    np.testing.assert_allclose(
        found["value"][["demographic_parity_difference", "equalized_odds_difference"]],
        [parity, max(odds) if not np.isnan(odds).any() else np.nan],
        rtol=0,
        atol=1e-12,
    )


@settings(derandomize=True, deadline=None, max_examples=25)
@given(class_samples())
def test_intervals_hold_their_estimates_and_the_summary_agrees(sample: Sample) -> None:
    found = _audit(sample, n_boot=20, y_score=sample.y_score)
    assert_brackets(found.intervals)
    assert_brackets(found.disparities, "difference")
    assert (found.worst["bound"] <= found.worst["value"]).all()
    plain = _audit(sample, is_weighted=False, y_score=sample.y_score)
    if len(set(sample.y_true)) < 3:
        return  # `summary` takes these rows for two labels
    row = summary(
        sample.y_true, sample.y_pred, sensitive_features=sample.features, y_score=sample.y_score
    )
    for name in ("accuracy", "balanced_accuracy", "auc"):
        assert row[name] == pytest.approx(plain.overall[name], abs=1e-12, nan_ok=True)
    for gap, figure in plain.gaps["value"].drop("accuracy_difference").items():
        assert row[str(gap)] == pytest.approx(figure, abs=1e-12, nan_ok=True)
    assert row["worst_cell"] == plain.worst["name"]["worst_cell_accuracy"]


def test_a_table_worked_by_hand() -> None:
    # a: cat, cat -> cat, dog; dog -> dog; b: dog -> emu; emu -> emu.
    found = audit(
        ["cat", "cat", "dog", "dog", "emu"],
        ["cat", "dog", "dog", "emu", "emu"],
        sensitive_features={"g": list("aaabb")},
        n_boot=99,
    )
    assert found.settings["task"] == "multiclass"
    assert found.settings["labels"] == ["cat", "dog", "emu"]
    assert found.settings["favourable"] is None
    assert found.overall["balanced_accuracy"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found.overall["macro_precision"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert found.overall["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert np.isnan(at(found.by_group, "a")["balanced_accuracy"])  # no emu
    assert at(found.by_group, "a")["tpr[cat]"] == 0.5
    assert at(found.by_group, "b")["fpr[emu]"] == 1
    assert found.cells is not None
    assert found.cells.to_dict("list") == {"cat": [2, 0], "dog": [1, 1], "emu": [0, 1]}
    assert found.worst.loc["worst_cell_accuracy", "name"] == "g=b, y=dog"
    gap = at(found.gaps, "demographic_parity_difference")
    assert (gap["value"], gap["rate"]) == (1.0, "selection_rate[emu]")
    assert (gap["lowest"], gap["highest"]) == ("g=a", "g=b")
    odds = at(found.gaps, "equalized_odds_difference")
    assert np.isnan(odds["value"])
    assert odds["rate"].startswith("P[")
    assert any(
        "tpr[cat] and balanced accuracy (no row with y=cat) in g=b" in m for m in found.warnings
    )


def test_a_label_that_is_only_predicted_has_no_recall_and_a_precision_of_0() -> None:
    found = audit([0, 1, 2, 1], [0, 1, 3, 1], sensitive_features=list("aabb"), n_boot=9)
    assert np.isnan(found.overall["tpr[3]"])
    assert found.overall["precision[3]"] == 0
    assert found.overall["fpr[3]"] == 0.25
    assert found.overall["base_rate[3]"] == 0
    assert found.overall["balanced_accuracy"] == 2 / 3  # of the labels that rows have
    assert found.by_group["balanced_accuracy"].isna().all()  # either group lacks one of them
    assert np.isnan(found.overall["precision[2]"])


def test_two_labels_may_be_audited_as_several() -> None:
    y, p, g = [0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0], list("aaabbb")
    several = audit(y, p, sensitive_features=g, task="multiclass", n_boot=9)
    two = audit(y, p, sensitive_features=g, n_boot=9)
    for rate in ("base_rate", "selection_rate", "tpr", "fpr", "precision"):
        assert several.by_group[f"{rate}[1]"].tolist() == two.by_group[rate].tolist()
    assert (
        several.by_group["balanced_accuracy"].tolist() == two.by_group["balanced_accuracy"].tolist()
    )
    assert several.gaps.loc["equalized_odds_difference", "value"] == pytest.approx(
        two.gaps.loc["equalized_odds_difference", "value"]
    )


@pytest.mark.parametrize(
    ("y_true", "options", "message"),
    [
        (list(range(150)), {}, "hold 150 labels, more than 100"),
        ([0, 1, 2] * 50, {"favourable": 1}, "`favourable` is of two labels"),
        (["a", 1, "b"] * 50, {}, "mixes labels of several types"),
    ],
)
def test_bad_labels_are_refused(y_true: list[Any], options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audit(y_true, y_true, sensitive_features=["a", "b", "c"] * 50, **options)
