"""What each family reaches: chosen on validation, shown on test."""

from collections.abc import Sequence

import pandas as pd

from fairclip._extras import require
from fairclip.metrics import pareto_front
from fairclip.study._families import BASELINE, Family
from fairclip.study._views import View

# How far below the baseline's accuracy the reference point of the hypervolumes lies.
BUDGET = 0.10


def choose_front(validation: pd.DataFrame, view: View) -> list[str]:
    """Return the arms that no other arm beats, of those that count.

    Args:
        validation: Points of one seed and of one family with the baseline, of the validation part.
        view: Which figure stands against accuracy.
    """
    points = validation[validation["valid"]] if view.only_valid else validation
    better = points.assign(figure=view.sign * points[view.metric])
    return list(points.loc[pareto_front(better, ["accuracy", "figure"]), "arm"])


def fronts(points: pd.DataFrame, families: Sequence[Family], view: View) -> pd.DataFrame:
    """Return the test points of the arms that are chosen on validation.

    Args:
        points: As from `mark_valid`: all arms, seeds and parts.
        families: Each is chosen from alone, with the baseline: anyone may decline to intervene.
        view: Which figure stands against accuracy.

    Returns:
        One row for each family, seed and chosen arm: family, seed, arm, accuracy, the figure, and
        whether the arm is valid on the test part too.
    """
    parts = []
    for family in families:
        own = points[points["arm"].isin([BASELINE, *family.arms])]
        for seed, rows in own.groupby("seed"):
            chosen = choose_front(rows[rows["part"] == "validation"], view)
            test = rows[(rows["part"] == "test") & rows["arm"].isin(chosen)]
            parts.append(test.assign(family=family.name, seed=seed))
    columns = ["family", "seed", "arm", "accuracy", view.metric, "valid"]
    return pd.concat(parts, ignore_index=True)[columns]


def hypervolumes(
    front: pd.DataFrame, points: pd.DataFrame, view: View, *, cut: bool = True
) -> pd.DataFrame:
    """Return the area that each family's test points dominate, for each seed.

    It is measured from the accuracy of the baseline on test less 0.10 and the figure's worst value,
    and ends at the accuracy of the baseline. Over 0.10 it is the mean of the figure over accuracy
    budgets of 0 to 0.10: for each the best of the points within it, and its worst value without
    one.

    Args:
        front: As from `fronts`.
        points: As there.
        view: Likewise.
        cut: Whether it ends at the accuracy of the baseline.

    Returns:
        Columns family, seed, hypervolume.
    """
    moocore = require("moocore", "study")
    accuracy = _accuracy_before(points).to_dict()
    rows = [
        {
            "family": family,
            "seed": seed,
            "hypervolume": moocore.hypervolume(
                own[["accuracy", view.metric]]
                .assign(accuracy=own["accuracy"].clip(upper=accuracy[seed] if cut else 1.0))
                .to_numpy(float),
                ref=[accuracy[seed] - BUDGET, view.worst],
                maximise=[True, view.sign > 0],
            ),
        }
        for (family, seed), own in front.groupby(["family", "seed"], sort=False)
    ]
    # Equal fronts in another order can be off by the last bit.
    return pd.DataFrame(rows).round({"hypervolume": 12})


def accuracy_gained(front: pd.DataFrame, points: pd.DataFrame) -> "pd.Series[float]":
    """Return how far the most accurate test point of each family is above the baseline, 0 if below.

    The hypervolumes leave this out.

    Args:
        front: As from `fronts`.
        points: As there.

    Returns:
        The mean over the seeds, by family.
    """
    gained = front["accuracy"] - front["seed"].map(_accuracy_before(points))
    by_seed = gained.clip(lower=0).groupby([front["family"], front["seed"]]).max()
    return by_seed.groupby("family").mean().round(12)


def _accuracy_before(points: pd.DataFrame) -> "pd.Series[float]":
    """Return the test accuracy of the baseline, by seed."""
    baseline = points[(points["arm"] == BASELINE) & (points["part"] == "test")]
    return baseline.set_index("seed")["accuracy"]
