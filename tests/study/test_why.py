"""What is said to limit every family, on figures that are easy to reckon."""

from typing import Any

import pandas as pd
import pytest

from fairclip.metrics import Table
from fairclip.study._families import FAMILIES, OURS, RIVALS
from fairclip.study._goal import BOTH, goal_of
from fairclip.study._record import Record
from fairclip.study._views import VIEWS
from fairclip.study._why import (
    gains_table,
    why_in_short,
    why_section,
    why_sentences,
    yardstick_table,
)
from tests.study._inputs import both_parts, record, run

WORST_CELL, ODDS = VIEWS
ARM = {family.name: family.arms[1] for family in FAMILIES}


def toy(title: str = "Toy", gap: float = 0.1, **worst_cells: float) -> Record:
    """Return a record in which every arm is as accurate as unclipped, with worst cell 0.6.

    ``worst_cells``: for a family's name, with _ for a space, another figure.
    """
    rows = [run("unclipped", 0.85, 0.6, gap=0.1)]
    for family in FAMILIES:
        figure = worst_cells.get(family.name.replace(" ", "_"), 0.6)
        rows.append(run(family.arms[1], 0.85, figure, gap=gap))
    return record(both_parts(rows), title)


def sentences(*records: Record) -> list[str]:
    verdicts = {found.setting.name: found.verdicts for found in records}
    return why_sentences(records, [goal_of(family, verdicts, 0) for family in OURS])


def test_a_gain_is_in_points_of_the_figure() -> None:
    gains = gains_table([toy(reweighting=0.7, TargetCap=0.65, gap=0.08)], WORST_CELL)["Toy"]
    assert gains["reweighting"] == pytest.approx(10.0)
    assert gains["TargetCap"] == pytest.approx(5.0)
    assert gains.drop(["reweighting", "TargetCap"]).eq(0).all()
    odds = gains_table([toy(gap=0.08)], ODDS)["Toy"]
    assert odds.to_numpy() == pytest.approx(2.0)


def test_a_family_that_was_not_run_gained_nothing_that_is_known() -> None:
    rows = [run("unclipped", 0.85, 0.6), run("fair_cap@2", 0.85, 0.7)]
    found = record(both_parts(rows))
    assert gains_table([found], WORST_CELL)["Toy"].notna().sum() == 1
    tables = [part for part in why_section([found], []).body if isinstance(part, Table)]
    assert tables[0].frame.loc["fairret", "Toy"] == "not run"


def test_a_rival_is_measured_by_the_other_rivals() -> None:
    found = toy(reweighting=0.7, NormCap=0.8)
    table = yardstick_table([found], [goal_of("NormCap", {"toy": found.verdicts}, 0)])
    held = table[f"settings: better or no worse than every rival, {BOTH}"]
    assert list(table.index) == ["NormCap", *RIVALS]
    assert held[held == 1].index.tolist() == ["NormCap", "reweighting"]
    above = table[f"settings: better than the group-blind, {BOTH}"]
    assert above.eq(0).all()  # in equalized odds all are equal
    assert set(found.rival_verdicts["family"]) == set(RIVALS)
    assert (found.rival_verdicts["family"] != found.rival_verdicts["rival"]).all()
    first = sentences(found)[0]
    assert "on more than 1 of 1 settings (" in first
    assert "NormCap, reweighting)" in first


def test_the_share_of_the_families_that_know_no_group() -> None:
    # 5 of 10 points, 2 of 10, 10 of 10: the median is a half.
    records = [
        toy("A", reweighting=0.7, thresholds=0.65),
        toy("B", reweighting=0.7, label_reweighting=0.62, thresholds=0.61),
        toy("C", reweighting=0.65, thresholds=0.7),
        toy("D"),  # nothing gains, so that there is no share
    ]
    assert "families that know no group gain 50%" in why_in_short(records, [])
    assert "which know no group, gain 50%" in sentences(*records)[1]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"tpr": 0.6, "fpr": 0.1}, "On 1 of 1 settings every group's recall"),
        ({"tpr": 0.6, "fpr": 0.32}, "On 0 of 1 settings every group's recall"),
        ({"tpr": 0.92, "fpr": 0.35}, "On 0 of 1 settings every group's recall"),
    ],
)
def test_the_label_keeps_the_worst_cell_low(rates: dict[str, float], expected: str) -> None:
    runs = both_parts([run("unclipped", 0.85, 0.6), run("fair_cap@2", 0.85, 0.6)])
    # The other group has TPR 0.7 and FPR 0.1.
    assert expected in sentences(record(runs, unclipped=rates))[1]


def test_what_is_gained_in_equalized_odds() -> None:
    text = sentences(toy("A", gap=0.07), toy("B"))[2]
    assert "gains 1.5 points in the median" in text
    assert "on 1 of 2 some family" in text


def test_a_setting_that_cannot_tell_is_counted() -> None:
    runs = both_parts([run("unclipped", 0.85, 0.6), run("fair_cap@2", 0.85, 0.6), *_rivals()])
    noisy = (runs["arm"] == "fair_cap@2") & (runs["part"] == "test")
    runs.loc[noisy, "worst_cell_accuracy"] = [0.5, 0.7, 0.9]
    assert why_in_short([record(runs)], []).endswith(
        "on 1 of 1 settings even equal families would be undecided."
    )
    assert "On 0 of 1 settings, in one of the pictures" in sentences(toy())[3]


def _rivals() -> list[dict[str, Any]]:
    return [run(ARM[rival], 0.85, 0.65) for rival in RIVALS]


def test_the_tables_are_of_all_families() -> None:
    found = toy(reweighting=0.7)
    tables = [part.frame for part in why_section([found], []).body if isinstance(part, Table)]
    assert [frame.index.name for frame in tables] == ["family"] * 3
    pd.testing.assert_index_equal(
        tables[0].index, pd.Index([family.name for family in FAMILIES], name="family")
    )
    assert tables[0].loc["reweighting", "Toy"] == "+10.0"
