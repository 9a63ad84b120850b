"""Chosen on validation, shown on test, and the area below."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.study._families import Family
from fairclip.study._fronts import accuracy_gained, choose_front, fronts, hypervolumes
from fairclip.study._views import VIEWS
from tests.study._inputs import run

WORST_CELL, ODDS = VIEWS
CAPS = Family("caps", ("a", "b", "c"))


def points(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows).assign(valid=True)


def slow_front(rows: list[tuple[float, float]]) -> list[int]:
    return [
        i
        for i, (x, y) in enumerate(rows)
        if not any((u >= x and v >= y) and (u > x or v > y) for u, v in rows)
    ]


def slow_hypervolume(rows: list[tuple[float, float]], x0: float, y0: float) -> float:
    """Return the area by sorting: from the right, each point adds what stands above the last."""
    area, height = 0.0, y0
    for x, y in sorted(rows, reverse=True):
        if x > x0 and y > height:
            area += (x - x0) * (y - height)
            height = y
    return area


# A coarse grid, so that equal values come up.
SHARES = st.integers(0, 20).map(lambda i: i / 20)
ROWS = st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=8)


@given(ROWS)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_the_front_is_the_brute_force_one(rows: list[tuple[float, float]]) -> None:
    for view in VIEWS:
        frame = points(*(run(str(i), x, y, y) for i, (x, y) in enumerate(rows)))
        expected = slow_front([(x, view.sign * y) for x, y in rows])
        assert choose_front(frame, view) == [str(i) for i in expected]


@given(ROWS, SHARES)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_the_area_is_that_of_sorting(rows: list[tuple[float, float]], before: float) -> None:
    all_points = points(run("unclipped", before, 0.0, 1.0))
    for view in VIEWS:
        front = points(*(run("a", x, y, y) for x, y in rows)).assign(family="caps")
        found = hypervolumes(front, all_points, view)["hypervolume"].item()
        flipped = [(min(x, before), y if view.sign > 0 else 1 - y) for x, y in rows]
        assert found == pytest.approx(slow_hypervolume(flipped, before - 0.1, 0.0), abs=1e-9)


def test_an_area_by_hand() -> None:
    # Above accuracy 0.75: 0.1 wide and 0.6 high, and below that 0.05 more, 0.2 higher.
    frame = points(run("unclipped", 0.85, 0.6), run("a", 0.80, 0.8))
    found = hypervolumes(frame.assign(family="caps"), frame, WORST_CELL)
    assert found["hypervolume"].item() == pytest.approx(0.1 * 0.6 + 0.05 * 0.2)


def test_more_accuracy_than_the_baseline_has_no_area_and_a_column_of_its_own() -> None:
    frame = points(run("unclipped", 0.85, 0.6), run("a", 0.95, 0.6), run("b", 0.8, 0.6))
    front = frame.assign(family=["none", "caps", "cuts"])
    areas = hypervolumes(front, frame, WORST_CELL).set_index("family")["hypervolume"]
    assert areas.to_dict() == pytest.approx({"none": 0.06, "caps": 0.06, "cuts": 0.03})
    uncut = hypervolumes(front, frame, WORST_CELL, cut=False).set_index("family")["hypervolume"]
    assert uncut.to_dict() == pytest.approx({"none": 0.06, "caps": 0.12, "cuts": 0.03})
    gained = accuracy_gained(front, frame)
    assert gained.to_dict() == pytest.approx({"none": 0.0, "caps": 0.1, "cuts": 0.0})


@given(ROWS)
@settings(derandomize=True, max_examples=30, deadline=None)
def test_the_area_is_the_mean_figure_over_the_budgets(rows: list[tuple[float, float]]) -> None:
    front = points(*(run("a", x, y, y) for x, y in rows)).assign(family="caps")
    area = hypervolumes(front, points(run("unclipped", 0.5, 0.0, 1.0)), WORST_CELL)
    # Midpoints of budgets so fine that no step of the coarse grid lies within one.
    budgets = (np.arange(100) + 0.5) / 1000
    best = [max((y for x, y in rows if x >= 0.5 - budget), default=0.0) for budget in budgets]
    assert area["hypervolume"].item() / 0.1 == pytest.approx(np.mean(best))


def test_invalid_arms_are_left_out_of_the_view_that_asks_for_it() -> None:
    frame = points(run("unclipped", 0.85, 0.6, 0.1), run("a", 0.9, 0.9, 0.01))
    frame["valid"] = [True, False]
    assert choose_front(frame, ODDS) == ["unclipped"]
    assert choose_front(frame, WORST_CELL) == ["a"]


def parts(validation: dict[str, float], test: dict[str, float], seed: int = 0) -> pd.DataFrame:
    """Return points at one accuracy with these worst cells."""
    return points(
        *(
            run(arm, 0.8, figure, seed=seed, part=part)
            for part, figures in (("validation", validation), ("test", test))
            for arm, figure in figures.items()
        )
    )


def test_a_better_test_figure_chooses_nothing() -> None:
    validation = {"unclipped": 0.5, "a": 0.7, "b": 0.6, "c": 0.4}
    for test in ({"unclipped": 0.5, "a": 0.1, "b": 0.9, "c": 1.0}, validation):
        found = fronts(parts(validation, test), [CAPS], WORST_CELL)
        assert found["arm"].tolist() == ["a"]
        assert found["worst_cell_accuracy"].tolist() == [test["a"]]


def test_validity_on_test_chooses_nothing() -> None:
    frame = parts({"unclipped": 0.5, "a": 0.7}, {"unclipped": 0.5, "a": 0.7})
    frame.loc[frame["arm"] == "a", "equalized_odds_difference"] = 0.01
    for valid_part, expected in (("validation", ["a"]), ("test", ["unclipped"])):
        frame["valid"] = (frame["arm"] == "unclipped") | (frame["part"] == valid_part)
        assert fronts(frame, [CAPS], ODDS)["arm"].tolist() == expected


def test_each_seed_chooses_for_itself() -> None:
    frame = pd.concat(
        [
            parts({"unclipped": 0.5, "a": 0.7}, {"unclipped": 0.5, "a": 0.6}, seed=0),
            parts({"unclipped": 0.7, "a": 0.5}, {"unclipped": 0.5, "a": 0.6}, seed=1),
        ],
        ignore_index=True,
    )
    found = fronts(frame, [CAPS], WORST_CELL)
    assert found[["seed", "arm"]].to_numpy().tolist() == [[0, "a"], [1, "unclipped"]]


def test_the_baseline_belongs_to_every_family_and_foreign_arms_to_none() -> None:
    frame = parts({"unclipped": 0.5, "x": 0.9}, {"unclipped": 0.5, "x": 0.9})
    assert fronts(frame, [CAPS], WORST_CELL)["arm"].tolist() == ["unclipped"]


def test_equal_fronts_in_another_order_have_exactly_one_area() -> None:
    rng = np.random.default_rng(0)
    rows = [run("a", x, y) for x, y in rng.random((9, 2))]
    baseline = points(run("unclipped", 0.3, 0.0))
    both = [
        points(*some).assign(family=name) for name, some in (("one", rows), ("other", rows[::-1]))
    ]
    volumes = hypervolumes(pd.concat(both), baseline, WORST_CELL)["hypervolume"]
    assert volumes[0] == volumes[1]
