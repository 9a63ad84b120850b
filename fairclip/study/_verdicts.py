"""Better, no worse, worse or undecided: a family against each rival, paired by seed."""

from collections.abc import Iterable, Sequence

import pandas as pd

from fairclip.metrics import over_seeds
from fairclip.study._families import BASELINE, OURS, RIVALS
from fairclip.study._fronts import BUDGET

WORDS = ("better", "no worse", "worse", "undecided")
# Doing nothing, and the rivals.
OTHERS = (BASELINE, *RIVALS)
MARGIN, STRICT_MARGIN = 0.005, 0.001
# From hypervolume to points (hundredths) of the figure, in the mean over the accuracy budgets.
POINTS = 100 / BUDGET
_ENDS = ("", "_low", "_high")
_COLUMNS = (
    "family",
    "rival",
    "difference",
    "low",
    "high",
    "points",
    "points_low",
    "points_high",
    "verdict",
    "strict_verdict",
)


def word(low: float, high: float, margin: float = MARGIN) -> str:
    """Return what the interval of a difference says; NaN says nothing.

    Example:
        >>> word(-0.002, 0.01), word(-0.002, -0.001), word(-0.02, 0.01)
        ('no worse', 'worse', 'undecided')
    """
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "no worse" if low > -margin else "undecided"


def verdicts(
    volumes: pd.DataFrame, test_over_train: float, families: Sequence[str] = OURS
) -> pd.DataFrame:
    """Return one row for each family and each other rival, doing nothing first.

    Args:
        volumes: Columns family, seed, hypervolume, and what else is to be judged in the same way.
        test_over_train: Rows over rows, for the correction of the intervals.
        families: Which are judged; a rival is not judged against itself.

    Returns:
        Columns family, rival; difference, low, high in units of hypervolume; the same as points,
        points_low, points_high; verdict and strict_verdict (the smaller margin); and the word for
        each further column under its name.
    """
    runs = volumes.rename(columns={"family": "arm"})
    others = list(volumes.columns.drop(["family", "seed", "hypervolume"]))
    rows = []
    for rival in _of(OTHERS, runs["arm"]):
        judged = [family for family in _of(families, runs["arm"]) if family != rival]
        pairs = runs[runs["arm"].isin([*judged, rival])]
        table = over_seeds(pairs, baseline=rival, test_over_train=test_over_train)
        for family in judged:
            changes = table.loc[[family]].to_dict("records")[0]
            change, low, high = (changes[f"hypervolume_change{end}"] for end in _ENDS)
            rows.append(
                {
                    "family": family,
                    "rival": rival,
                    "difference": change,
                    "low": low,
                    "high": high,
                    "points": change * POINTS,
                    "points_low": low * POINTS,
                    "points_high": high * POINTS,
                    "verdict": word(low, high),
                    "strict_verdict": word(low, high, STRICT_MARGIN),
                    **{
                        name: word(changes[f"{name}_change_low"], changes[f"{name}_change_high"])
                        for name in others
                    },
                }
            )
    return pd.DataFrame(rows, columns=[*_COLUMNS, *others])


def _of(names: Iterable[str], present: Iterable[str]) -> list[str]:
    there = set(present)
    return [name for name in names if name in there]
