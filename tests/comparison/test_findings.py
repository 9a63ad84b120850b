import pandas as pd

from fairclip.comparison import Settings
from fairclip.comparison._arms import Arm, make_arms
from fairclip.comparison._findings import headlines
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
