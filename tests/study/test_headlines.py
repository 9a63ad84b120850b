"""The arm that a family would use, and who gained and lost by it."""

from typing import Any

import numpy as np
import pandas as pd

from fairclip.study._headlines import cells_table, chosen_table, headlines, levelled_down
from fairclip.study._record import Record
from fairclip.study._views import VIEWS
from tests.study._inputs import ENVIRONMENT, both_parts, groups_of, record, run

WORST_CELL, ODDS = VIEWS


def rows(*more: dict[str, Any]) -> pd.DataFrame:
    return both_parts([run("unclipped", 0.85, 0.6), *more])


def said(found: Record, family: str = "NormCap") -> str:
    return " ".join(s for s in headlines(found, WORST_CELL) if s.startswith(f"{family}, "))


def test_the_arm_keeps_the_accuracy_and_has_the_best_worst_cell() -> None:
    runs = rows(
        run("fair_cap@0.5", 0.84, 0.65), run("fair_cap@2", 0.83, 0.7), run("fair_cap@1", 0.82, 0.9)
    )
    chosen = chosen_table(record(runs), WORST_CELL)["arm"]
    assert chosen.to_dict() == {"none": "unclipped", "NormCap": "fair_cap@2"}


def test_the_arm_of_the_other_picture_is_valid() -> None:
    runs = rows(
        run("fair_cap@0.5", 0.8, 0.6, 0.08),
        run("fair_cap@2", 0.8, 0.6, 0.01, balanced_accuracy=0.5),
    )
    assert chosen_table(record(runs), ODDS)["arm"]["NormCap"] == "fair_cap@0.5"


def test_test_figures_do_not_choose_the_arm() -> None:
    runs = rows(run("fair_cap@0.5", 0.85, 0.7), run("fair_cap@2", 0.85, 0.65))
    on_test = runs["part"] == "test"
    runs.loc[on_test & (runs["arm"] == "fair_cap@2"), "worst_cell_accuracy"] = 0.99
    runs.loc[on_test & (runs["arm"] == "fair_cap@0.5"), "worst_cell_accuracy"] = 0.1
    chosen = chosen_table(record(runs), WORST_CELL)
    assert chosen.loc["NormCap", "arm"] == "fair_cap@0.5"
    assert chosen.loc["NormCap", "worst cell accuracy"] == 0.1


def test_an_arm_as_good_as_the_baseline_is_not_chosen_before_it() -> None:
    found = record(rows(run("fair_cap@0.5", 0.86, 0.6)))
    assert headlines(found, WORST_CELL) == [
        "NormCap: unclipped; no arm of it is better on validation."
    ]


def test_cells_that_gained_and_lost_are_named_with_intervals() -> None:
    runs = rows(run("fair_cap@2", 0.84, 0.7))
    changes: dict[str, Any] = {"fair_cap@2": {"tpr": 0.72, "fpr": 0.15}}
    text = said(record(runs, **changes))
    assert "Cell that gained most: sex=f, y=1, recall +0.120 ± 0.000" in text
    assert "lost most: sex=f, y=0, recall -0.050 ± 0.000." in text


def test_without_a_loss_none_is_named() -> None:
    text = said(record(rows(run("fair_cap@2", 0.84, 0.7))))
    assert "lost: none." in text


def test_the_group_blind_arm_keeps_as_much_accuracy_on_validation() -> None:
    runs = rows(
        run("fair_cap@2", 0.84, 0.7),
        run("cut@0.4", 0.845, 0.68),
        run("cut@0.3", 0.835, 0.9),
        run("label_reweight@0.5", 0.84, 0.69),
    )
    assert (
        "at least as accurate on the validation part, label_reweight@0.5, has worst cell "
        "accuracy 0.690 at accuracy 0.840; fair_cap@2 has 0.700 at 0.840." in said(record(runs))
    )
    better = rows(run("fair_cap@2", 0.86, 0.7), run("cut@0.4", 0.845, 0.68))
    assert "No group-blind arm keeps as much" in said(record(better))


def test_levelling_down_is_flagged_where_the_better_group_fell() -> None:
    runs = rows(run("fair_cap@2", 0.84, 0.7), run("fair_cap@1", 0.84, 0.7))
    # The recall of y=1 is 0.6 for f and 0.7 for m.
    by_group = groups_of(runs, **{"fair_cap@2": {"tpr": 0.6}, "fair_cap@1": {"tpr": 0.7}})
    lower = (by_group["arm"] == "fair_cap@2") & (by_group["group"] == "sex=m")
    by_group.loc[lower, "tpr"] = 0.6
    plain = record(runs)
    found = Record(plain.setting, runs, by_group, ENVIRONMENT)
    assert len(levelled_down(found, "fair_cap@2")) == 1
    assert "levels down" in levelled_down(found, "fair_cap@2")[0]
    assert "sex=m, y=1 fell by 0.100 ± 0.000" in levelled_down(found, "fair_cap@2")[0]
    assert levelled_down(found, "fair_cap@1") == []


def test_a_fall_that_may_be_chance_only_may_be_levelling_down() -> None:
    runs = rows(run("fair_cap@2", 0.84, 0.7))
    by_group = groups_of(runs, **{"fair_cap@2": {"tpr": 0.6}})
    lower = (by_group["arm"] == "fair_cap@2") & (by_group["group"] == "sex=m")
    by_group.loc[lower & (by_group["seed"] == 0), "tpr"] = 0.5
    found = Record(record(runs).setting, runs, by_group, ENVIRONMENT)
    assert "may level down" in levelled_down(found, "fair_cap@2")[0]


def test_rivals_that_level_down_are_named_too() -> None:
    runs = rows(run("reweight@0.5", 0.84, 0.7), run("cut@0.4", 0.84, 0.7))
    by_group = groups_of(runs, **{"reweight@0.5": {"tpr": 0.6}, "cut@0.4": {"tpr": 0.7}})
    lower = (by_group["arm"] == "reweight@0.5") & (by_group["group"] == "sex=m")
    by_group.loc[lower, "tpr"] = 0.6
    found = headlines(Record(record(runs).setting, runs, by_group, ENVIRONMENT), WORST_CELL)
    assert len(found) == 1
    assert found[0].startswith("reweighting, reweight@0.5: The model levels down")


def test_the_accuracy_that_the_area_leaves_out_has_a_column() -> None:
    table = chosen_table(record(rows(run("fair_cap@2", 0.88, 0.7))), WORST_CELL)
    assert table["accuracy gained beside the area"].to_dict() == {"none": 0.0, "NormCap": 0.03}


def test_a_rival_with_fewer_arms_has_their_number() -> None:
    runs = rows(
        run("exponentiated_gradient@0.01", 0.84, 0.7),
        run("cut@0.4", 0.84, 0.7),
        run("cut@0.6", 0.84, 0.7),
    )
    names = list(chosen_table(record(runs), WORST_CELL).index)
    assert names == ["none", "thresholds", "exponentiated gradient (1 arms)"]


def test_a_cell_that_is_undefined_in_a_seed_has_no_mean() -> None:
    runs = rows(run("fair_cap@2", 0.84, 0.7))
    runs.loc[runs["seed"] == 0, "auc"] = np.nan
    by_group = groups_of(runs)
    gone = (by_group["seed"] == 0) & (by_group["group"] == "sex=m")
    by_group.loc[gone, "tpr"] = np.nan
    found = Record(record(runs).setting, runs, by_group, ENVIRONMENT)
    assert found.means["auc"].isna().all()
    recalls = cells_table(found, ["unclipped", "fair_cap@2"])
    assert recalls.loc["sex=m, y=1"].isna().all()
    assert recalls.drop("sex=m, y=1").notna().all(axis=None)
    assert "sex=m, y=1" not in said(found)


def test_rows_of_the_parts_give_the_correction() -> None:
    # 200 rows in the test part, as many in the validation part, 1,000 in all.
    assert np.isclose(record(rows()).test_over_train, 200 / 600)


def test_the_strongest_rivals_have_the_largest_areas() -> None:
    arms = ("cut@0.4", "group_dro@0.01", "fairret@0.02", "reweight@0.5", "fair_cap@2")
    runs = rows(*(run(arm, 0.85, 0.65 + i / 50) for i, arm in enumerate(arms)))
    found = record(runs).strongest_rivals(WORST_CELL)
    assert found == ["reweighting", "fairret", "group DRO"]
