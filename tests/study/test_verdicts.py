"""Each word, the goal, and where simple methods do as well."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairclip.metrics import Notes
from fairclip.study._answer import answer_section
from fairclip.study._families import FAMILIES, GROUP_BLIND, N_ARMS, OURS, PRIMARY, RIVALS
from fairclip.study._goal import (
    BOTH,
    above_nothing_somewhere,
    above_simple_somewhere,
    goal_of,
    in_the_way,
    not_above_simple,
)
from fairclip.study._verdicts import MARGIN, OTHERS, STRICT_MARGIN, WORDS, verdicts, word
from fairclip.study._views import VIEWS


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.002, "better"),
        (0.0, 0.002, "no worse"),
        (-0.0049, 0.002, "no worse"),
        (-0.005, 0.002, "undecided"),
        (-0.02, 0.002, "undecided"),
        (-0.002, -0.001, "worse"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_words(low: float, high: float, expected: str) -> None:
    assert word(low, high) == expected
    assert expected in WORDS


def test_the_strict_margin_is_stricter() -> None:
    assert word(-0.003, 0.002, MARGIN) == "no worse"
    assert word(-0.003, 0.002, STRICT_MARGIN) == "undecided"


def volumes(ours: list[float], rival: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"family": family, "seed": seed, "hypervolume": value}
        for family, values in (("NormCap", ours), ("reweighting", rival))
        for seed, value in enumerate(values)
    )


def test_a_difference_is_paired_and_its_interval_knows_the_overlap() -> None:
    ours, rival = [0.10, 0.30, 0.22], [0.08, 0.27, 0.21]
    found = verdicts(volumes(ours, rival), test_over_train=1 / 3).to_dict("records")
    differences = np.subtract(ours, rival)
    half = stats.t.ppf(0.975, 2) * math.sqrt((1 / 3 + 1 / 3) * differences.var(ddof=1))
    assert len(found) == 1
    assert found[0]["difference"] == pytest.approx(differences.mean())
    assert found[0]["low"] == pytest.approx(differences.mean() - half)
    assert found[0]["points"] == pytest.approx(1000 * differences.mean())
    assert found[0]["points_high"] == pytest.approx(1000 * (differences.mean() + half))


@pytest.mark.parametrize(
    ("rival", "expected"),
    [
        ([0.10, 0.30, 0.22], "no worse"),  # the same front
        ([0.08, 0.28, 0.20], "better"),
        ([0.12, 0.32, 0.24], "worse"),
        ([0.20, 0.10, 0.30], "undecided"),
    ],
)
def test_every_word_is_reached_from_areas(rival: list[float], expected: str) -> None:
    found = verdicts(volumes([0.10, 0.30, 0.22], rival), test_over_train=1 / 3)
    assert found["verdict"].tolist() == [expected]


def all_said(said: str, points: float = 0.0, **others: str) -> pd.DataFrame:
    """Return verdicts of one setting; ``others``: for a rival, with _ for a space."""
    return pd.DataFrame(
        {
            "view": view.title,
            "family": family,
            "rival": rival,
            "verdict": others.get(rival.replace(" ", "_"), said),
            "points": points,
        }
        for view in VIEWS
        for family in OURS
        for rival in OTHERS
    )


def test_the_goal_counts_settings_in_each_picture_and_in_both() -> None:
    split = all_said("better")
    split.loc[(split["view"] == "worst cell") & (split["rival"] == "thresholds"), "verdict"] = (
        "undecided"
    )
    said = {"a": all_said("better"), "b": all_said("no worse"), "c": split}
    goal = goal_of("NormCap", said, n_missing=0)
    assert goal.held == {"worst cell": 2, "equalized odds": 3, BOTH: 2}
    assert goal.above_blind == {"worst cell": 1, "equalized odds": 2, BOTH: 1}


@pytest.mark.parametrize("said", ["worse", "undecided"])
def test_one_rival_is_enough_to_miss_a_setting(said: str) -> None:
    goal = goal_of("TargetCap", {"a": all_said("better", group_DRO=said)}, n_missing=0)
    assert goal.held[BOTH] == 0
    assert goal.above_blind[BOTH] == 1


@pytest.mark.parametrize(
    ("n_better", "n_missing", "expected"),
    [(6, 2, "met"), (5, 3, "open"), (5, 0, "not met"), (2, 3, "not met")],
)
def test_the_goal_is_met_missed_or_open(n_better: int, n_missing: int, expected: str) -> None:
    said = {str(i): all_said("better") for i in range(n_better)}
    assert goal_of("NormCap", said, n_missing).state == expected


def test_to_be_no_worse_than_all_does_not_meet_the_goal() -> None:
    said = {str(i): all_said("no worse") for i in range(8)}
    assert goal_of("NormCap", said, n_missing=0).state == "not met"


def test_rivals_in_the_way_are_counted_by_setting_and_word() -> None:
    said = {
        "a": all_said("better", fairret="worse", UPGrad="undecided", unclipped="worse"),
        "b": all_said("no worse", fairret="undecided", UPGrad="undecided"),
    }
    assert in_the_way("NormCap", "worse", said)["n"].to_dict() == {"fairret": 1}
    assert in_the_way("NormCap", "undecided", said)["n"].to_dict() == {"UPGrad": 2, "fairret": 1}


def test_of_rivals_equally_often_in_the_way_the_stronger_comes_first() -> None:
    said = all_said("undecided")
    said.loc[said["rival"] == "UPGrad", "points"] = -3.0
    said.loc[said["rival"] == "fairret", "points"] = -1.0
    found = in_the_way("NormCap", "undecided", {"a": said})
    assert list(found.index[:2]) == ["UPGrad", "fairret"]
    goal = goal_of("NormCap", {"a": said}, 0)
    notes = answer_section([goal], {"a": said}, [], 1).body[-3]
    assert isinstance(notes, Notes)
    assert f"undecided against all {len(RIVALS)} rivals (1 each)" in notes.sentences[0]


@pytest.mark.parametrize("rival", ["exponentiated gradient", "thresholds"])
def test_a_rival_that_was_not_run_is_none_to_be_above(rival: str) -> None:
    said = all_said("better")
    goal = goal_of("NormCap", {"a": said[said["rival"] != rival]}, n_missing=0)
    assert goal.held[BOTH] == 0
    assert goal.above_blind[BOTH] == (rival not in GROUP_BLIND)


def test_doing_nothing_is_no_rival() -> None:
    goal = goal_of("NormCap", {"a": all_said("better", unclipped="worse")}, n_missing=0)
    assert goal.held[BOTH] == 1
    assert sum(goal.words[BOTH].values()) == len(VIEWS) * len(RIVALS)


def test_another_column_is_judged_alike() -> None:
    said = all_said("worse").assign(step_verdict="better")
    assert goal_of("NormCap", {"a": said}, 0, "step_verdict").held[BOTH] == 1


def test_words_are_counted_apart() -> None:
    goal = goal_of("NormCap", {"a": all_said("better", fairret="worse", UPGrad="undecided")}, 0)
    n = len(RIVALS) - 2
    assert goal.words["worst cell"] == {"better": n, "no worse": 0, "worse": 1, "undecided": 1}
    assert goal.words[BOTH]["worse"] == 2


def test_to_be_better_than_nothing_once_is_enough() -> None:
    said = all_said("better", unclipped="no worse")
    assert not above_nothing_somewhere(said)
    said.loc[(said["rival"] == "unclipped").idxmax(), "verdict"] = "better"
    assert above_nothing_somewhere(said)


def test_the_ladder_with_preserve_norm_has_no_goal() -> None:
    assert PRIMARY == ("NormCap", "NormCap+balance", "TargetCap")


def test_without_a_family_of_ours_there_is_no_verdict() -> None:
    volumes_of_rival = volumes([0.1], [0.2]).query("family == 'reweighting'")
    found = verdicts(volumes_of_rival, test_over_train=1 / 3)
    assert found.empty
    assert {"family", "rival", "verdict"} <= set(found)
    assert goal_of("NormCap", {"a": found.assign(view=[])}, 0).held[BOTH] == 0


NO_WORSE = "no worse and not shown to be better than"


def test_simple_methods_that_do_as_well_are_named() -> None:
    said = all_said("better", reweighting="worse", thresholds="no worse", fairret="worse")
    assert not_above_simple("NormCap", said) == [
        f"{phrase} ({view.title})"
        for phrase in ("worse than reweighting", f"{NO_WORSE} thresholds")
        for view in VIEWS
    ]
    assert not_above_simple("NormCap", all_said("better")) == []
    assert not above_simple_somewhere(said)
    assert above_simple_somewhere(all_said("better", fairret="worse"))


def test_every_family_has_as_many_arms_that_no_rival_has() -> None:
    assert {len(set(family.arms)) for family in FAMILIES} == {N_ARMS}
    ours = {arm for family in FAMILIES if family.ours for arm in family.arms}
    others = [arm for family in FAMILIES if not family.ours for arm in family.arms]
    assert len(ours.union(others)) == len(ours) + len(others)
    assert set(GROUP_BLIND) <= set(RIVALS)
