"""How much area an idea gains: chosen on validation, shown on test. Units: points.

A point is a hundredth of the worst cell's recall, or of the equalized odds difference, in the mean
over accuracy budgets of 0 to 0.10 below the unclipped run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from fairclip.metrics import over_seeds, pareto_front

BUDGET = 0.10
POINTS = 100 / BUDGET
# Rows over rows of the parts.
_TEST_OVER_TRAIN = 1 / 3
_NEAR = 0.01


@dataclass(frozen=True)
class View:
    """A figure against accuracy; what is no step towards a constant prediction may be asked for."""

    name: str
    metric: str
    sign: int
    worst: float
    only_valid: bool


VIEWS = (
    View("worst cell", "worst_cell_accuracy", 1, 0.0, only_valid=False),
    View("equalized odds", "equalized_odds_difference", -1, 1.0, only_valid=True),
)


def start_of(rule: str) -> str:
    """Return the rule without any intervention that has the cut of ``rule``."""
    return "unclipped, cut at base rate" if rule.endswith("at base rate") else "unclipped"


def area(runs: pd.DataFrame, rule: str, view: View) -> "pd.Series[float]":
    """Return the hypervolume in points that a rule reaches on test, with no rule, by seed.

    The arms are those that no other beats on validation. In a view that asks for it they have a
    balanced accuracy and an AUC within 0.01 of the unclipped ones there, and select of each group
    between half and twice its base rate.
    """
    found, start = {}, start_of(rule)
    for seed, of_seed in runs[runs["rule"].isin([rule, start])].groupby("seed"):
        if rule not in set(of_seed["rule"]):
            continue
        of_seed = of_seed.sort_values(["rule", "strength"])
        validation, test = (of_seed[of_seed["part"] == part] for part in ("validation", "test"))
        is_start = (test["rule"] == start).to_numpy()
        better = validation.assign(figure=view.sign * validation[view.metric])
        if view.only_valid:
            better = better[_valid(validation, is_start)]
        front = better[pareto_front(better, ["accuracy", "figure"])]
        is_chosen = validation.index.isin(front.index)
        found[seed] = POINTS * moocore.hypervolume(
            test.loc[is_chosen, ["accuracy", view.metric]].to_numpy(float),
            ref=[test.loc[is_start, "accuracy"].iloc[0] - BUDGET, view.worst],
            maximise=[True, view.sign > 0],
        )
    return pd.Series(found, dtype=float)


def _valid(points: pd.DataFrame, is_start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    figures = points[["balanced_accuracy", "auc"]].to_numpy(float)
    near = (np.abs(figures - figures[is_start]) <= _NEAR + 1e-9).all(1)
    return np.asarray(near & (points["selects"] == 1).to_numpy() | is_start)


@dataclass(frozen=True)
class Gain:
    """A mean over seeds, or over tables, and its 95 % interval."""

    mean: float
    low: float
    high: float
    n_seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def gain(own: "pd.Series[float]", other: "pd.Series[float]") -> Gain:
    """Return what one rule's areas are over another's, paired by seed; the splits overlap."""
    areas = [own, other]
    table = pd.concat(
        [
            pd.DataFrame({"arm": arm, "seed": by_seed.index, "area": by_seed / POINTS})
            for arm, by_seed in zip(("rule", "against"), areas, strict=True)
        ]
    )
    changes = over_seeds(table, baseline="against", test_over_train=_TEST_OVER_TRAIN).loc["rule"]
    ends = [f"area_change{end}" for end in ("", "_low", "_high")]
    mean, low, high = (POINTS * changes[ends].to_numpy(float)).tolist()
    return Gain(mean, low, high, n_seeds=len(areas[0].index.intersection(areas[1].index)))


def pooled(gains: Sequence[Gain]) -> Gain:
    """Return the mean over tables, whose errors are independent."""
    errors = [(g.high - g.mean) / stdtrit(g.n_seeds - 1, 0.975) for g in gains]
    mean, n_seeds = sum(g.mean for g in gains) / len(gains), sum(g.n_seeds for g in gains)
    half = stdtrit(n_seeds - len(gains), 0.975) * math.hypot(*errors) / len(gains)
    return Gain(mean, mean - half, mean + half, n_seeds)
