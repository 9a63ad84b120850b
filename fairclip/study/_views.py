"""The two pictures of a setting: what stands against accuracy, and which arms count."""

from dataclasses import dataclass

import pandas as pd

from fairclip.study._families import BASELINE

# How far a valid arm's balanced accuracy and AUC may be from the baseline's, either way.
_NEAR = 0.01
_ROUNDING = 1e-9
# A valid arm's selection rate in every group, over the group's base rate.
_LEAST_SELECTED, _MOST_SELECTED = 0.5, 2.0
# What a named arm may lose of the baseline's accuracy where no arm is invalid.
_MAX_LOSS = 0.02


@dataclass(frozen=True)
class View:
    """A figure against accuracy.

    Attributes:
        title: On the page.
        metric: Column of the runs.
        sign: 1 where a higher figure is better, -1 where a lower one is.
        worst: The worst value of the figure, from which hypervolumes are measured.
        only_valid: Whether arms count only where `mark_valid` says so.
    """

    title: str
    metric: str
    sign: int
    worst: float
    only_valid: bool

    def eligible(self, points: pd.DataFrame) -> "pd.Series[bool]":
        """Return which arms may be named: the valid ones, or those that keep the accuracy.

        Args:
            points: As from `mark_valid`, of one part and seed, indexed by arm.
        """
        if self.only_valid:
            return points["valid"]
        least: float = points["accuracy"][points.index == BASELINE].max() - _MAX_LOSS
        return points["accuracy"].ge(least - _ROUNDING)


VIEWS = (
    View("worst cell", "worst_cell_accuracy", 1, 0.0, only_valid=False),
    View("equalized odds", "equalized_odds_difference", -1, 1.0, only_valid=True),
)


def mark_valid(runs: pd.DataFrame, by_group: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a column ``valid``: no constant prediction, and no step towards one.

    An arm is valid if its balanced accuracy, and its AUC where it has scores, lie within 0.01 of
    the baseline's, and the selection rate of every group within half and twice the group's base
    rate. The baseline always is.

    Args:
        runs: One row for each arm, seed and part.
        by_group: One row for each arm, seed, part and group.
    """
    before = runs[runs["arm"] == BASELINE].set_index(["seed", "part"])
    before = before[["balanced_accuracy", "auc"]].add_suffix("_before")
    other = runs.join(before, on=["seed", "part"])
    near = pd.Series(data=True, index=runs.index)
    for metric in ("balanced_accuracy", "auc"):
        near &= ~((other[metric] - other[f"{metric}_before"]).abs() > _NEAR + _ROUNDING)
    ratios = by_group["selection_rate"] / by_group["base_rate"]
    selects = ratios.between(_LEAST_SELECTED - _ROUNDING, _MOST_SELECTED + _ROUNDING)
    keys = ["arm", "seed", "part"]
    all_select = selects.groupby([by_group[key] for key in keys]).all().rename("selects")
    selects_of_run = runs.join(all_select, on=keys)["selects"]
    return runs.assign(valid=(near & selects_of_run) | (runs["arm"] == BASELINE))
