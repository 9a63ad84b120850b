"""The answer of the page: the goals, and the rivals that stand in the way."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fairclip.metrics import Notes, Section, Table
from fairclip.study._families import RIVALS
from fairclip.study._goal import BOTH, NEEDED, NEEDED_ABOVE_BLIND, Goal, in_the_way

_N_NAMED = 3
_FAMILIES = Notes(
    (
        "NormCap is the ladder of ratios, over all cells and within each label: the rule for which "
        "the goal was set.",
        "NormCap+balance is the ladder within each label with label_balance, a dial between the "
        "labels. It was made when the ladder fell short, after probes on Adult by sex, German "
        "credit and the mortgages.",
        "TargetCap is adaptive reweighting and measures no gradient of a group. The floor, the "
        "rate and the soft recalls of its arms were chosen after such probes too.",
        "The grids of all three were moved once towards more, after first results on five of the "
        "settings, above all Credit default by sex: they ended before the rivals' did. On these "
        "five a word is therefore no test of what was chosen. Adult, race × sex, Credit default, "
        "education, and digits came later and decided nothing; the first two hold rows of the "
        "former in other groups.",
    )
)


def goal_sentences(goals: Sequence[Goal], n_settings: int) -> list[str]:
    """Return whether the goal is met by our families, and on how many settings each part holds."""
    held = ", ".join(f"{goal.family} {goal.held[BOTH]}" for goal in goals)
    above = ", ".join(f"{goal.family} {goal.above_blind[BOTH]}" for goal in goals)
    return [
        *(f"{goal.family}: goal {goal.state}." for goal in goals),
        f"Of {n_settings} settings, better or no worse than every rival (goal {NEEDED}): {held}; "
        f"better than both families that know no group (goal {NEEDED_ABOVE_BLIND}): {above}.",
    ]


def answer_section(
    goals: Sequence[Goal],
    verdicts: Mapping[str, pd.DataFrame],
    missing: Sequence[str],
    n_settings: int,
) -> Section:
    """Say what was asked, count by picture, and name the rivals that stand in the way."""
    asked = (
        f"The goal, set before the study: no rival does better on at least {NEEDED} of the "
        f"{n_settings} settings, and on at least {NEEDED_ABOVE_BLIND} the family is better than "
        "label reweighting and than thresholds, which know no group. A setting counts if this "
        "holds in both pictures. One that is undecided, or lacks a rival, does not count."
    )
    unfinished = [f"Not finished, and counted as not reached: {'; '.join(missing)}."]
    return Section(
        "The answer",
        (
            asked,
            _FAMILIES,
            *(unfinished if missing else []),
            goals_table(goals),
            _notes(goals, verdicts),
        ),
    )


def goals_table(goals: Sequence[Goal]) -> Table:
    """Return the counts behind the goals, by family and picture."""
    rows = [
        {
            "family": goal.family,
            "counted in": view,
            "settings: better or no worse than every rival": goal.held[view],
            "settings: better than the group-blind": goal.above_blind[view],
            **{f"rivals: {word}": n for word, n in goal.words[view].items()},
        }
        for goal in goals
        for view in goal.held
    ]
    return Table(
        pd.DataFrame(rows).set_index(["family", "counted in"]),
        "In how many settings it holds, and how often each word was said of a rival in a setting.",
    )


def _notes(goals: Sequence[Goal], verdicts: Mapping[str, pd.DataFrame]) -> Notes:
    if not verdicts:
        return Notes(())
    return Notes(
        tuple(
            f"{goal.family}: {_named('worse', 'worse than', goal.family, verdicts)}; "
            f"{_named('undecided', 'undecided against', goal.family, verdicts)}."
            for goal in goals
        )
    )


def _named(verdict: str, phrase: str, family: str, verdicts: Mapping[str, pd.DataFrame]) -> str:
    """Return the rivals that most often have this word, and in how many settings."""
    found = in_the_way(family, verdict, verdicts)
    if found.empty:
        return f"{phrase} no rival"
    if len(found) == len(RIVALS) and found["n"].nunique() == 1:
        return f"{phrase} all {len(RIVALS)} rivals ({found['n'].iloc[0]} each)"
    named = ", ".join(f"{rival} ({n})" for rival, n in found["n"].head(_N_NAMED).items())
    return f"most often {phrase} {named}"
