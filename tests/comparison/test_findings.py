from dataclasses import replace

import pandas as pd

from fairclip.comparison import Settings
from fairclip.comparison._arms import Arm, make_arms
from fairclip.comparison._findings import headlines, no_help
from fairclip.comparison._results import METRICS, Results

ARMS: tuple[Arm, ...] = make_arms(Settings(quick=True, max_ratio=(2.0, 1.0)))


def results(validation: dict[str, tuple[float, float]]) -> Results:
    """Give accuracy and worst cell of some arms' validation; all test figures are the same."""
    names = [arm.name for arm in ARMS]
    parts = {"mean": 0.7, "change": 0.1, "change_low": 0.05, "change_high": 0.15}
    test = pd.DataFrame({"arm": names, "cap_active": 1.0, "clip_active": 0.5})
    test = test.assign(worst_cell="sex=female, y=1", worst_cell_n=1352.5)
    for metric in METRICS:
        test = test.assign(**{f"{metric}_{part}": value for part, value in parts.items()})
    figures = [validation.get(name, (0.9, 0.1)) for name in names]
    held_back = pd.DataFrame(figures, columns=["accuracy_mean", "worst_cell_accuracy_mean"])
    held_back.insert(0, "arm", names)
    empty = pd.DataFrame()
    return Results(test, held_back, empty, empty, empty, empty, empty, ())


def test_the_named_arms_are_chosen_on_the_validation_part_and_shown_on_the_test_part() -> None:
    found = results(
        {
            "fair_cap@2": (0.87, 0.9),  # too much accuracy lost
            "fair_cap@1": (0.89, 0.8),
            "threshold": (0.885, 0.7),
            "reweight@0.5": (0.885, 0.6),
        }
    )
    best = "fair_cap_label@2"  # on the test part
    found.tradeoff.loc[found.tradeoff["arm"] == best, "worst_cell_accuracy_mean"] = 0.99
    changed = ["accuracy_change", "accuracy_change_low", "accuracy_change_high"]
    found.tradeoff.loc[found.tradeoff["arm"] == "fair_cap@1", changed] -= 0.3
    changes = (
        "balanced accuracy +0.100 ± 0.050, worst cell accuracy +0.100 ± 0.050 "
        "(sex=female, y=1, n = 1,352), equalized odds difference +0.100 ± 0.050."
    )
    assert headlines(found, ARMS)[1:4] == [
        f"With a cap, fair_cap@1: accuracy -0.200 ± 0.050, {changes}",
        f"With the groups in another way, reweight@0.5: accuracy +0.100 ± 0.050, {changes}",
        f"Group-blind, threshold: accuracy +0.100 ± 0.050, {changes}",
    ]


def test_no_arm_is_named_where_all_lose_too_much() -> None:
    lost = {arm.name: (0.8, 0.9) for arm in ARMS if arm.name.startswith("fair_cap")}
    assert headlines(results(lost), ARMS)[1] == "With a cap: no arm keeps the accuracy."


def test_a_cap_that_balances_labels_is_not_judged_by_its_factors() -> None:
    names = ("fair_cap_label@2", "fair_cap_label@2+balance1")
    arms = make_arms(Settings(arms=names))
    found = results({})
    row = found.tradeoff.iloc[[0]].assign(cap_active=0.0, selection_rate_mean=0.3)
    tradeoff = pd.concat([row.assign(arm=arm.name) for arm in arms], ignore_index=True)
    cells = ["a, y=0", "a, y=1"]
    telemetry = [
        {"arm": name, "group": c, "factor": f}
        for name in names
        for c, f in zip(cells, (0.5, 1.0), strict=True)
    ]
    rates = {f"{rate}_mean": 0.5 for rate in ("accuracy", "fpr")}
    by_group = [{"arm": arm.name, "group": "a", "tpr_mean": 0.9, **rates} for arm in arms]
    found = replace(
        found, tradeoff=tradeoff, telemetry=pd.DataFrame(telemetry), by_group=pd.DataFrame(by_group)
    )
    notes = no_help(found, arms, base_rate=0.3)
    of_factors = notes[notes["what the figures say"].str.startswith("The cap ")]
    assert of_factors["arm"].tolist() == [names[0]] * 2
