"""On how many of the settings a family reaches the goal."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from fairclip.study._families import BASELINE, GROUP_BLIND, RIVALS
from fairclip.study._verdicts import WORDS
from fairclip.study._views import VIEWS

NOT_WORSE = ("better", "no worse")
# Of the main settings: with no rival that does better, and above both group-blind families.
NEEDED, NEEDED_ABOVE_BLIND = 6, 4
# What anyone can do without a gradient of a group.
SIMPLE = (*GROUP_BLIND, "reweighting")
BOTH = "both pictures"


@dataclass(frozen=True)
class Goal:
    """Where a family stands.

    Attributes:
        family: Its name.
        held: Settings where it is better or no worse than every rival, by picture and in both.
        above_blind: Settings where it is better than each group-blind family, likewise.
        words: How often each word is said of it and a rival, likewise; both pictures add up.
        n_missing: Settings that are not finished.
    """

    family: str
    held: Mapping[str, int]
    above_blind: Mapping[str, int]
    words: Mapping[str, Mapping[str, int]]
    n_missing: int

    @property
    def state(self) -> str:
        """``met``, ``not met``, or ``open`` while missing settings can still decide it."""
        short = max(NEEDED - self.held[BOTH], NEEDED_ABOVE_BLIND - self.above_blind[BOTH])
        if short <= 0:
            return "met"
        return "open" if short <= self.n_missing else "not met"


def goal_of(
    family: str, verdicts: Mapping[str, pd.DataFrame], n_missing: int, column: str = "verdict"
) -> Goal:
    """Count the settings; one counts in both pictures if it does in each.

    A rival that was not run is none that the family is shown to be no worse than. A rival is
    measured by the other rivals.

    Args:
        family: Its name.
        verdicts: Of each finished setting.
        n_missing: Settings that are not finished.
        column: Where the words are.
    """
    titles = [view.title for view in VIEWS]
    held, above_blind = (dict.fromkeys([*titles, BOTH], 0) for _ in range(2))
    words = {title: dict.fromkeys(WORDS, 0) for title in [*titles, BOTH]}
    for table in verdicts.values():
        own = table[(table["family"] == family) & table["rival"].isin(RIVALS)]
        said = {title: dict(_pairs(own, title, column)) for title in titles}
        good = {t: all(said[t].get(r) in NOT_WORSE for r in RIVALS if r != family) for t in titles}
        above = {
            t: all(said[t].get(r) == "better" for r in GROUP_BLIND if r != family) for t in titles
        }
        for counts, found in ((held, good), (above_blind, above)):
            for title in titles:
                counts[title] += found[title]
            counts[BOTH] += all(found.values())
        for title in titles:
            for word in said[title].values():
                words[title][word] += 1
                words[BOTH][word] += 1
    return Goal(family, held, above_blind, words, n_missing)


def _pairs(own: pd.DataFrame, title: str, column: str) -> "zip[tuple[str, str]]":
    rows = own[own["view"] == title]
    return zip(rows["rival"], rows[column], strict=True)


def in_the_way(family: str, verdict: str, verdicts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return in how many settings each rival has this word in a picture, most first.

    Of rivals with equally many, the one that the family is further below comes first.

    Args:
        family: One of ours.
        verdict: ``worse`` or ``undecided``.
        verdicts: Of each finished setting; at least one.

    Returns:
        By rival: n, and the mean difference in points.
    """
    table = pd.concat(frame.assign(setting=name) for name, frame in verdicts.items())
    own = table[(table["family"] == family) & table["rival"].isin(RIVALS)]
    found = own[own["verdict"] == verdict].groupby("rival")["setting"].nunique().rename("n")
    means = own.groupby("rival")["points"].mean().round(12)
    return found.to_frame().join(means).sort_values(["n", "points"], ascending=[False, True])


def above_nothing_somewhere(verdicts: pd.DataFrame) -> bool:
    """Return whether one of our families is better than doing nothing in one picture.

    Args:
        verdicts: Of one setting.
    """
    return bool((verdicts.loc[verdicts["rival"] == BASELINE, "verdict"] == "better").any())


def above_simple_somewhere(verdicts: pd.DataFrame) -> bool:
    """Return whether one of our families is better than all simple methods in one picture.

    Args:
        verdicts: Of one setting.
    """
    simple = verdicts[verdicts["rival"].isin(SIMPLE)]
    better = (simple["verdict"] == "better").groupby([simple["view"], simple["family"]]).all()
    return bool(better.any())


def not_above_simple(family: str, verdicts: pd.DataFrame) -> list[str]:
    """Return a phrase for each simple method, or doing nothing, that the family is not better than.

    Args:
        family: One of ours.
        verdicts: Of one setting.
    """
    own = verdicts[(verdicts["family"] == family) & verdicts["rival"].isin((BASELINE, *SIMPLE))]
    phrases = {
        "worse": "worse than {}",
        "no worse": "no worse and not shown to be better than {}",
        "undecided": "undecided against {}",
    }
    found = []
    for verdict, phrase in phrases.items():
        for view, rows in own[own["verdict"] == verdict].groupby("view", sort=False):
            found.append(f"{phrase.format(', '.join(rows['rival']))} ({view})")
    return found
