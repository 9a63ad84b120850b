"""What the words would be under other choices, and in how many pairs they change."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fairclip.study._families import BASELINE, Family
from fairclip.study._fronts import BUDGET, fronts, hypervolumes
from fairclip.study._views import View

# Column of the verdicts, and what is chosen otherwise.
ALTERNATIVES = {
    "two_sided_verdict": "validity two-sided, the earlier rule: balanced accuracy and AUC not "
    "above it either",
    "uncut_verdict": "the area not cut at unclipped's accuracy, the earlier rule",
    "step_verdict": "step curve: one arm a budget, picked on validation, its test figure read",
    "strict_verdict": "a margin of 0.001 (1 point)",
    "dropped_verdict": "points that are invalid on test replaced by unclipped",
}
_N_BUDGETS = 101


def alternative_volumes(
    points: pd.DataFrame, families: Sequence[Family], view: View, front: pd.DataFrame
) -> pd.DataFrame:
    """Return what stands for the hypervolumes where it is not the margin that is another.

    Args:
        points: As from `mark_valid`.
        families: To choose from.
        view: Where all arms count, validity changes nothing.
        front: What `fronts` makes of these.

    Returns:
        Columns named as in `ALTERNATIVES`, indexed by family and seed.
    """
    two_sided = dropped = front
    if view.only_valid:
        two_sided = fronts(points.assign(valid=points["valid_two_sided"]), families, view)
        dropped = without_invalid(front, points)
    volumes = {
        "two_sided_verdict": hypervolumes(two_sided, points, view),
        "uncut_verdict": hypervolumes(front, points, view, cut=False),
        "step_verdict": step_curves(points, families, view),
        "dropped_verdict": hypervolumes(dropped, points, view),
    }
    return pd.DataFrame(
        {
            name: table.set_index(["family", "seed"])["hypervolume"]
            for name, table in volumes.items()
        }
    )


def without_invalid(front: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Return the front with the baseline in the place of points that are invalid on test.

    Args:
        front: As from `fronts`.
        points: As there.
    """
    lost = front.loc[~front["valid"], ["family", "seed"]].drop_duplicates()
    baseline = points[(points["arm"] == BASELINE) & (points["part"] == "test")]
    instead = lost.merge(baseline, on="seed")[front.columns]
    return pd.concat([front[front["valid"]], instead], ignore_index=True)


def step_curves(points: pd.DataFrame, families: Sequence[Family], view: View) -> pd.DataFrame:
    """Return the mean test figure of the arms that would be used, over the accuracy budgets.

    For each budget of 0 to 0.10 it is the arm with the best validation figure of those that lose no
    more validation accuracy, and are valid there where the view asks for it; of equal arms the most
    accurate. No maximum is taken over test figures.

    Args:
        points: As from `mark_valid`.
        families: Each is chosen from alone, with the baseline.
        view: Which figure stands against accuracy.

    Returns:
        Columns family, seed, hypervolume: in its unit, figure times 0.10.
    """
    rows = []
    for family in families:
        own = points[points["arm"].isin([BASELINE, *family.arms])]
        for seed, of_seed in own.groupby("seed"):
            test = of_seed[of_seed["part"] == "test"].set_index("arm")[view.metric]
            figure = float(test[_picks(of_seed[of_seed["part"] == "validation"], view)].mean())
            area = view.sign * (figure - view.worst) * BUDGET
            rows.append({"family": family.name, "seed": seed, "hypervolume": area})
    return pd.DataFrame(rows).round({"hypervolume": 12})


def _picks(validation: pd.DataFrame, view: View) -> list[str]:
    """Return the arm for each budget."""
    before = validation.loc[validation["arm"] == BASELINE, "accuracy"].item()
    allowed = validation[validation["valid"]] if view.only_valid else validation
    ranked = allowed.assign(
        figure=(view.sign * allowed[view.metric]).round(12),
        loss=(before - allowed["accuracy"]).round(12),
    ).sort_values(["figure", "loss"], ascending=[False, True], kind="stable")
    budgets = np.linspace(0, BUDGET, _N_BUDGETS).round(12)
    within = ranked["loss"].to_numpy() <= budgets[:, None]  # (budgets, arms)
    return list(ranked["arm"].to_numpy()[within.argmax(axis=1)])


def invalid_on_test(points: pd.DataFrame) -> float:
    """Return the share of the arms and seeds that are valid on validation and not on test.

    Args:
        points: As from `mark_valid`; the baseline, which always is valid, does not count.
    """
    wide = points[points["arm"] != BASELINE].pivot(
        index=["arm", "seed"], columns="part", values="valid"
    )
    test = wide.loc[wide["validation"].astype(bool), "test"].astype(bool)
    return float((~test).mean())
