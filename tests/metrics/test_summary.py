import math
from typing import Any

import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from hypothesis import given, settings

from fairclip.metrics import audit, summary
from tests.metrics._inputs import Sample, samples, table_sample


@settings(derandomize=True, deadline=None, max_examples=30)
@given(samples())
def test_gaps_are_those_of_fairlearn_where_defined(sample: Sample) -> None:
    race = sample.features["race"]
    found = summary(sample.y_true, sample.y_pred, sensitive_features=race)
    assert found["demographic_parity_difference"] == pytest.approx(
        demographic_parity_difference(sample.y_true, sample.y_pred, sensitive_features=race),
        abs=1e-12,
    )
    odds = found["equalized_odds_difference"]
    assert isinstance(odds, float)
    if not math.isnan(odds):
        assert odds == pytest.approx(
            equalized_odds_difference(sample.y_true, sample.y_pred, sensitive_features=race),
            abs=1e-12,
        )


@settings(derandomize=True, deadline=None, max_examples=30)
@given(samples())
def test_summary_and_audit_agree(sample: Sample) -> None:
    arguments = (sample.y_true, sample.y_pred)
    found = summary(*arguments, sensitive_features=sample.features, y_score=sample.y_score)
    full = audit(*arguments, sensitive_features=sample.features, y_score=sample.y_score, n_boot=1)
    expected: dict[Any, Any] = {
        **full.overall[["accuracy", "balanced_accuracy", "auc", "selection_rate"]].to_dict(),
        "worst_group_accuracy": full.worst["value"]["worst_group_accuracy"],
        "worst_group": full.worst["name"]["worst_group_accuracy"],
        "worst_cell_accuracy": full.worst["value"]["worst_cell_accuracy"],
        "worst_cell": full.worst["name"]["worst_cell_accuracy"],
        "worst_cell_n": full.worst["n"]["worst_cell_accuracy"],
        "equalized_odds_difference": full.gaps["value"]["equalized_odds_difference"],
        "demographic_parity_difference": full.gaps["value"]["demographic_parity_difference"],
    }
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, nan_ok=True)


def test_the_worst_cell_is_named_with_its_rows() -> None:
    found = summary(
        [1, 1, 0, 1, 0],
        [1, 0, 0, 0, 0],
        sensitive_features={"sex": ["f", "f", "f", "m", "m"], "race": ["x"] * 5},
    )
    assert found["worst_cell"] == "sex=m, race=x, y=1"
    assert (found["worst_cell_accuracy"], found["worst_cell_n"]) == (0.0, 1)
    assert math.isnan(float(found["auc"]))


def test_the_types_are_plain() -> None:
    sample = table_sample(200)
    found = summary(sample.y_true, sample.y_pred, sensitive_features=sample.features)
    assert {type(value) for value in found.values()} == {float, str, int}
