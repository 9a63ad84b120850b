"""On how many of the settings our families reach the goal."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from fairclip.study._families import GROUP_BLIND
from fairclip.study._views import VIEWS

NOT_WORSE = ("better", "no worse")
# Of the eight: with no rival that does better, and above both group-blind families.
NEEDED, NEEDED_ABOVE_BLIND = 6, 4
# What anyone can do without a gradient of a group.
SIMPLE = (*GROUP_BLIND, "reweighting")


@dataclass(frozen=True)
class Goal:
    """Where one of our families stands.

    Attributes:
        family: Its name.
        held: Settings where it is better or no worse than every rival, by picture and in both.
        above_blind: Settings where it is better than each group-blind family, likewise.
        n_missing: Settings that are not finished.
    """

    family: str
    held: Mapping[str, int]
    above_blind: Mapping[str, int]
    n_missing: int

    @property
    def state(self) -> str:
        """``met``, ``not met``, or ``open`` while missing settings can still decide it."""
        short = max(NEEDED - self.held[BOTH], NEEDED_ABOVE_BLIND - self.above_blind[BOTH])
        if short <= 0:
            return "met"
        return "open" if short <= self.n_missing else "not met"


BOTH = "both pictures"


def goal_of(family: str, verdicts: Mapping[str, pd.DataFrame], n_missing: int) -> Goal:
    """Count the settings; one counts in both pictures if it does in each.

    Args:
        family: One of ours.
        verdicts: Of each finished setting.
        n_missing: Settings that are not finished.
    """
    held = {view.title: 0 for view in VIEWS} | {BOTH: 0}
    above_blind = dict(held)
    for table in verdicts.values():
        own = table[table["family"] == family]
        good = own["verdict"].isin(NOT_WORSE).groupby(own["view"]).all()
        better = own[own["rival"].isin(GROUP_BLIND)]
        above = (better["verdict"] == "better").groupby(better["view"]).all()
        for counts, found in ((held, good), (above_blind, above)):
            for view, value in found.items():
                counts[str(view)] += int(value)
            counts[BOTH] += int(len(found) == len(VIEWS) and found.all())
    return Goal(family, held, above_blind, n_missing)


def hardest_rivals(family: str, verdicts: Mapping[str, pd.DataFrame]) -> "pd.Series[int]":
    """Return in how many settings each rival stands in the way, most first.

    Args:
        family: One of ours.
        verdicts: Of each finished setting.
    """
    table = pd.concat(frame.assign(setting=name) for name, frame in verdicts.items())
    table = table[(table["family"] == family) & ~table["verdict"].isin(NOT_WORSE)]
    return table.groupby("rival")["setting"].nunique().sort_values(ascending=False, kind="stable")


def above_simple_somewhere(verdicts: pd.DataFrame) -> bool:
    """Return whether one of our families is better than all simple methods in one picture.

    Args:
        verdicts: Of one setting.
    """
    simple = verdicts[verdicts["rival"].isin(SIMPLE)]
    better = (simple["verdict"] == "better").groupby([simple["view"], simple["family"]]).all()
    return bool(better.any())


def not_above_simple(family: str, verdicts: pd.DataFrame) -> list[str]:
    """Return a phrase for each simple method that the family is not better than.

    Args:
        family: One of ours.
        verdicts: Of one setting.
    """
    own = verdicts[(verdicts["family"] == family) & verdicts["rival"].isin(SIMPLE)]
    phrases = {
        "worse": "worse than {}",
        "no worse": "no better than {}",
        "undecided": "not shown to be better than {}",
    }
    found = []
    for verdict, phrase in phrases.items():
        for view, rows in own[own["verdict"] == verdict].groupby("view", sort=False):
            found.append(f"{phrase.format(' and '.join(rows['rival']))} ({view})")
    return found
