"""What would be said under other choices."""

from typing import Any

import pandas as pd
import pytest

from fairclip.study._choices import choices_section
from fairclip.study._families import BASELINE, Family
from fairclip.study._fronts import fronts
from fairclip.study._sensitivity import (
    ALTERNATIVES,
    alternative_volumes,
    invalid_on_test,
    step_curves,
    without_invalid,
)
from fairclip.study._views import VIEWS
from tests.study._inputs import both_parts, record, run

WORST_CELL, ODDS = VIEWS
CAPS = Family("caps", ("a", "b"))


def points(validation: list[dict[str, Any]], test: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [row | {"part": "validation"} for row in validation] + test
    return pd.DataFrame(rows).assign(valid=True, valid_two_sided=True)


def test_a_step_curve_by_hand() -> None:
    # On validation `a` costs 4 points of accuracy, and `b` more than any budget.
    frame = points(
        [run(BASELINE, 0.85, 0.5), run("a", 0.81, 0.7), run("b", 0.7, 0.9)],
        [run(BASELINE, 0.85, 0.4), run("a", 0.6, 0.8), run("b", 0.85, 0.9)],
    )
    area = step_curves(frame, [CAPS], WORST_CELL)["hypervolume"].item()
    assert area == pytest.approx(0.1 * (40 * 0.4 + 61 * 0.8) / 101)


def test_a_step_curve_takes_no_best_of_test() -> None:
    validation = [run(BASELINE, 0.85, 0.5), run("a", 0.85, 0.7), run("b", 0.85, 0.6)]
    worse, better = (
        points(validation, [run(BASELINE, 0.85, 0.5), run("a", 0.85, 0.3), run("b", 0.85, b)])
        for b in (0.1, 0.9)
    )
    for frame in (worse, better):
        assert step_curves(frame, [CAPS], WORST_CELL)["hypervolume"].item() == pytest.approx(0.03)


def test_of_equal_arms_the_step_curve_picks_the_most_accurate() -> None:
    frame = points(
        [run(BASELINE, 0.85, 0.5), run("a", 0.80, 0.7), run("b", 0.85, 0.7)],
        [run(BASELINE, 0.85, 0.5), run("a", 0.85, 0.3), run("b", 0.85, 0.6)],
    )
    assert step_curves(frame, [CAPS], WORST_CELL)["hypervolume"].item() == pytest.approx(0.06)


def test_a_step_curve_asks_for_validity_in_the_view_that_does() -> None:
    rows = [run(BASELINE, 0.85, 0.5, 0.2), run("a", 0.85, 0.7, 0.1)]
    frame = points(rows, rows)
    frame["valid"] = frame["arm"] == BASELINE
    areas = [step_curves(frame, [CAPS], view)["hypervolume"].item() for view in VIEWS]
    assert areas == pytest.approx([0.07, 0.08])


def test_a_point_that_is_invalid_on_test_gives_way_to_the_baseline() -> None:
    rows = [run(BASELINE, 0.85, 0.5, 0.2), run("a", 0.85, 0.5, 0.1), run("b", 0.84, 0.5, 0.05)]
    frame = points(rows, rows)
    frame.loc[(frame["arm"] == "a") & (frame["part"] == "test"), "valid"] = False
    found = without_invalid(fronts(frame, [CAPS], ODDS), frame)
    assert sorted(found["arm"]) == ["b", BASELINE]


def test_validity_changes_only_the_view_that_asks_for_it() -> None:
    rows = [run(BASELINE, 0.85, 0.5, 0.2), run("a", 0.85, 0.7, 0.1)]
    frame = points(rows, rows)
    frame["valid_two_sided"] = frame["arm"] == BASELINE
    areas = {}
    for view in VIEWS:
        front = fronts(frame, [CAPS], view)
        found = alternative_volumes(frame, [CAPS], view, front)
        areas[view.title] = {name: found[name].item() for name in found}
    assert areas["worst cell"]["two_sided_verdict"] == pytest.approx(0.07)
    assert areas["equalized odds"]["two_sided_verdict"] == pytest.approx(0.08)
    assert areas["equalized odds"]["dropped_verdict"] == pytest.approx(0.09)


def test_the_share_that_is_invalid_on_test_leaves_the_baseline_out() -> None:
    rows = [run(BASELINE, 0.85, 0.5), run("a", 0.85, 0.7), run("b", 0.85, 0.7)]
    frame = points(rows, rows)
    frame.loc[(frame["arm"] == "a") & (frame["part"] == "test"), "valid"] = False
    assert invalid_on_test(frame) == 0.5


def test_the_section_counts_the_words_that_change() -> None:
    found = record(
        both_parts(
            [run(BASELINE, 0.85, 0.6), run("fair_cap@2", 0.85, 0.7), run("cut@0.4", 0.85, 0.65)]
        )
    )
    assert set(ALTERNATIVES) <= set(found.verdicts)
    found.verdicts["step_verdict"] = "worse"
    table = choices_section([found]).body[1]
    frame = getattr(table, "frame")  # noqa: B009
    assert frame.loc["as on this page", "worst cell"] == "0 of 1"
    assert frame.loc[ALTERNATIVES["step_verdict"], "worst cell"] == "1 of 1"
