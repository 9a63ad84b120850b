"""The answer of the page: the goals, and the rivals that stand in the way."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fairclip.metrics import Notes, Section, Table
from fairclip.study._families import RIVALS
from fairclip.study._goal import BOTH, NEEDED, NEEDED_ABOVE_BLIND, Goal, in_the_way
from fairclip.study._verdicts import MARGIN, POINTS

_N_NAMED = 3
_WORDS = (
    "A cell is a group and a label; the worst cell is the one with the lowest share of right "
    "predictions. Fair clipping limits what large cells do to an update: NormCap bounds the length "
    "of a cell's gradient relative to a smaller one's, TargetCap weighs rows down where recall is "
    "ahead. An arm is one way to train, a family is arms of one kind.",
    "There are two pictures: accuracy against the worst cell, and accuracy against the equalized "
    "odds difference. For each loss of accuracy from 0 to 0.10 the best figure is taken that a "
    "family reaches, and averaged; 0.01 of this average, which is an area in the picture, is one "
    f"point. The margin is {MARGIN * POINTS:g} points: no worse is a loss of less, by the whole "
    "95 % interval.",
)
_HISTORY = Notes(
    (
        "NormCap is the ladder of ratios, over all cells and within each label.",
        "NormCap+balance is the ladder within each label with label_balance, a dial between the "
        "labels. It was made when the ladder fell short, after probes on Adult by sex, German "
        "credit and the mortgages. Until five settings were finished it was reported without a "
        "goal; since then it is measured by the same one, which is one more chance at it.",
        "TargetCap is adaptive reweighting and measures no gradient of a group. The floor, the "
        "rate and the soft recalls of its arms were chosen, and its grid replaced, after probes on "
        "Adult by sex, German credit, Credit default by sex and the mortgages.",
        "After results on these four and the two concepts, above all on Credit default by sex, the "
        "grids of NormCap, NormCap+balance and TargetCap were moved towards stronger caps: they "
        "ended before the rivals' did. Those of FairBatch, FairGrad and fairret were moved once, "
        "after results on German credit.",
        "Two rules were changed after runs of four settings: an arm had to be near unclipped's "
        "balanced accuracy and AUC from above too, and the area did not end at unclipped's "
        "accuracy. What the words would be under the earlier rules is counted below.",
        "On these five settings a word is therefore no test of what was chosen. Credit default, "
        "education, and digits were run after all of this; Adult, race × sex, had begun, and its "
        "figures were not looked at. But Credit default, education, and Adult, race × sex, are the "
        "rows of Credit default, sex, and Adult, sex, in other groups, so that digits alone are "
        "new rows.",
        "Exponentiated gradient has two arms on five settings, for its cost, and eight on the "
        "others. To be no worse than it is easier there.",
    )
)


def goal_sentences(goals: Sequence[Goal], n_settings: int) -> list[str]:
    """Return whether the goal is met by our families, and on how many settings each part holds."""
    held = ", ".join(f"{goal.family} {goal.held[BOTH]}" for goal in goals)
    above = ", ".join(f"{goal.family} {goal.above_blind[BOTH]}" for goal in goals)
    return [
        *(f"{goal.family}: goal {goal.state}." for goal in goals),
        f"Of {n_settings} settings, better or no worse than every rival (goal: at least {NEEDED}): "
        f"{held}; better than label reweighting and thresholds, which know no group (goal: at "
        f"least {NEEDED_ABOVE_BLIND}): {above}.",
    ]


def answer_section(
    goals: Sequence[Goal],
    verdicts: Mapping[str, pd.DataFrame],
    missing: Sequence[str],
    n_settings: int,
) -> Section:
    """Say what was asked, count by picture, and name the rivals that stand in the way."""
    asked = (
        "The goal was set before the study, for NormCap and, apart from it, for TargetCap; "
        "NormCap+balance, which is younger, is measured by it too. First: on "
        f"at least {NEEDED} of the {n_settings} settings the family is shown to be better or no "
        f"worse than every rival. Second: on at least {NEEDED_ABOVE_BLIND} it is shown to be "
        "better than label reweighting and better than thresholds, which know no group. Each must "
        "hold in both pictures of a setting. A word that is undecided, or a rival that was not "
        "run, counts as a miss."
    )
    unfinished = [f"Not finished, and counted as not reached: {'; '.join(missing)}."]
    return Section(
        "The answer",
        (
            *_WORDS,
            asked,
            *(unfinished if missing else []),
            goals_table(goals),
            _notes(goals, verdicts),
            "What is measured, and what was changed after results were seen:",
            _HISTORY,
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
        (
            *(
                f"{goal.family}: {_named('worse', 'worse than', goal.family, verdicts)}; "
                f"{_named('undecided', 'undecided against', goal.family, verdicts)}."
                for goal in goals
            ),
            "In brackets: on how many settings, in either picture.",
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
