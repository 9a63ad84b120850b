"""The two pictures of a setting: what stands against accuracy, and which arms count."""

from dataclasses import dataclass

import pandas as pd

from fairclip.study._families import BASELINE

# How far a valid arm's balanced accuracy and AUC may be below the baseline's.
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

    An arm is valid if its balanced accuracy, and its AUC where it has scores, are not more than
    0.01 below the baseline's, and the selection rate of every group lies within half and twice the
    group's base rate. The column ``valid_two_sided`` asks that they are not more than 0.01 above it
    either. The baseline always is valid.

    Args:
        runs: One row for each arm, seed and part.
        by_group: One row for each arm, seed, part and group.
    """
    metrics = ["balanced_accuracy", "auc"]
    is_baseline = runs["arm"] == BASELINE
    before = runs[is_baseline].set_index(["seed", "part"])[metrics].add_suffix("_before")
    other = runs.join(before, on=["seed", "part"])
    changes = pd.DataFrame({m: other[m] - other[f"{m}_before"] for m in metrics})
    # Written so that an arm without scores passes.
    too_low = (changes < -_NEAR - _ROUNDING).any(axis=1)
    too_high = (changes > _NEAR + _ROUNDING).any(axis=1)
    ratios = by_group["selection_rate"] / by_group["base_rate"]
    selects = ratios.between(_LEAST_SELECTED - _ROUNDING, _MOST_SELECTED + _ROUNDING)
    keys = ["arm", "seed", "part"]
    all_select = selects.groupby([by_group[key] for key in keys]).all().rename("selects")
    near = ~too_low & runs.join(all_select, on=keys)["selects"]
    return runs.assign(valid=near | is_baseline, valid_two_sided=near & ~too_high | is_baseline)
