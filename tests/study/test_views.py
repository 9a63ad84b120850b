"""Which arms count, and which of them may be named."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairclip.study._views import VIEWS, mark_valid
from tests.study._inputs import groups_of, run

WORST_CELL, ODDS = VIEWS


def validity(*rows: dict[str, object], **changes: dict[str, float]) -> dict[str, bool]:
    runs = pd.DataFrame([run("unclipped", 0.85, 0.6), *rows])
    marked = mark_valid(runs, groups_of(runs, **changes))
    return dict(zip(marked["arm"], marked["valid"], strict=True))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"balanced_accuracy": 0.79}, True),
        ({"balanced_accuracy": 0.81}, True),
        ({"balanced_accuracy": 0.789}, False),
        ({"balanced_accuracy": 0.9}, True),
        ({"auc": 0.99}, True),
        ({"auc": 0.889}, False),
        ({"auc": np.nan}, True),
    ],
)
def test_an_arm_must_be_as_good_a_classifier(change: dict[str, Any], expected: bool) -> None:
    assert validity(run("a", 0.85, 0.6, **change))["a"] is expected


@pytest.mark.parametrize(
    ("selected", "expected"), [(0.1, True), (0.4, True), (0.099, False), (0.401, False)]
)
def test_every_group_must_be_selected_about_as_often_as_its_base_rate(
    selected: float, expected: bool
) -> None:
    # The base rate of sex=f is 0.2; that of the other group is met.
    found = validity(run("a", 0.85, 0.6), a={"selection_rate": selected})
    assert found["a"] is expected


@pytest.mark.parametrize(("auc", "expected"), [(0.91, True), (0.911, False), (0.889, False)])
def test_the_other_reading_bounds_an_arm_from_above_too(auc: float, expected: bool) -> None:
    runs = pd.DataFrame([run("unclipped", 0.85, 0.6), run("a", 0.85, 0.6, auc=auc)])
    marked = mark_valid(runs, groups_of(runs))
    assert marked["valid_two_sided"].tolist() == [True, expected]


def test_the_baseline_always_counts() -> None:
    assert validity(unclipped={"selection_rate": 0.0})["unclipped"]


def test_an_arm_is_measured_by_the_baseline_of_its_own_seed_and_part() -> None:
    runs = pd.DataFrame(
        [
            run("unclipped", 0.85, 0.6, seed=0, balanced_accuracy=0.8),
            run("unclipped", 0.85, 0.6, seed=1, balanced_accuracy=0.9),
            run("a", 0.85, 0.6, seed=0, balanced_accuracy=0.8),
            run("a", 0.85, 0.6, seed=1, balanced_accuracy=0.8),
        ]
    )
    marked = mark_valid(runs, groups_of(runs))
    assert marked["valid"].tolist() == [True, True, True, False]


def test_named_arms_keep_the_accuracy_in_one_view_and_are_valid_in_the_other() -> None:
    points = pd.DataFrame(
        {"accuracy": [0.85, 0.83, 0.829], "valid": [True, False, True]},
        index=["unclipped", "near", "far"],
    )
    assert WORST_CELL.eligible(points).tolist() == [True, True, False]
    assert ODDS.eligible(points).tolist() == [True, False, True]
