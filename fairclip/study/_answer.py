"""The first parts of the page: the answer, the words, and where not to use fair clipping."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fairclip.metrics import Notes, Section, Table
from fairclip.study._families import GROUP_BLIND, OURS, RIVALS
from fairclip.study._goal import (
    BOTH,
    NEEDED,
    NEEDED_ABOVE_BLIND,
    Goal,
    above_simple_somewhere,
    hardest_rivals,
    not_above_simple,
)
from fairclip.study._record import Record
from fairclip.study._views import VIEWS

_GOAL = (
    f"The goal, set before the study: no rival does better on at least {NEEDED} of the 8 settings, "
    "and on at least "
    f"{NEEDED_ABOVE_BLIND} the family is better than label reweighting and than thresholds, which "
    "know no group. A setting counts if this holds in both pictures. A setting that is undecided "
    "does not count."
)


def goal_sentences(goals: Sequence[Goal], n_settings: int) -> list[str]:
    """Return for each of our families whether the goal is met, and on how many settings."""
    return [
        f"{goal.family}: goal {goal.state}. Better or no worse than every rival on "
        f"{goal.held[BOTH]} of {n_settings} settings (goal {NEEDED}), better than both group-blind "
        f"families on {goal.above_blind[BOTH]} (goal {NEEDED_ABOVE_BLIND})."
        for goal in goals
    ]


def answer_section(
    goals: Sequence[Goal], verdicts: Mapping[str, pd.DataFrame], missing: Sequence[str]
) -> Section:
    """Say what was asked, count by picture, and name the rivals that stand in the way."""
    rows = [
        {
            "family": goal.family,
            "counted in": view,
            "better or no worse than every rival": goal.held[view],
            "better than the group-blind": goal.above_blind[view],
        }
        for goal in goals
        for view in goal.held
    ]
    table = Table(
        pd.DataFrame(rows).set_index(["family", "counted in"]),
        "Settings in which it holds, by picture.",
    )
    return Section(
        "The answer",
        (
            _GOAL,
            *([f"Not finished, and counted as not reached: {'; '.join(missing)}."] * bool(missing)),
            table,
            Notes(tuple(filter(None, (_in_the_way(goal.family, verdicts) for goal in goals)))),
        ),
    )


def _in_the_way(family: str, verdicts: Mapping[str, pd.DataFrame]) -> str:
    if not verdicts:
        return ""
    hardest = hardest_rivals(family, verdicts).head(3)
    if hardest.empty:
        return f"{family}: no rival is better, and none undecided."
    named = ", ".join(f"{rival} ({n})" for rival, n in hardest.items())
    return (
        f"{family}: the rivals that it is most often worse than, or undecided against, and in how "
        f"many settings: {named}."
    )


def words_section(heading: str, records: Sequence[Record]) -> Section:
    """Show the word for each setting and rival, one table for each family and picture."""
    tables = []
    for view in VIEWS:
        for family in OURS:
            rows = {}
            for record in records:
                table = record.verdicts
                own = table[(table["view"] == view.title) & (table["family"] == family)]
                words = own.set_index("rival")["verdict"].reindex(list(RIVALS))
                rows[record.setting.title] = words.fillna("not run")
            frame = pd.DataFrame(rows).T.rename_axis("setting")
            frame.columns = [f"{r} (group-blind)" * (r in GROUP_BLIND) or r for r in frame]
            tables.append(Table(frame, f"{family} against each rival, picture: {view.title}."))
    note = (
        "Better: the interval of the difference is above 0. Worse: it is below 0. No worse: it is "
        "above -5 points and not below 0. Undecided: it says none of these. The differences stand "
        "with each setting."
    )
    return Section(heading, (note, *tables))


def not_here_section(records: Sequence[Record]) -> Section:
    """Say in which settings simpler methods do as well or better."""
    notes = [
        f"{record.setting.title}, {family}: {'; '.join(found)}."
        for record in records
        for family in OURS
        if (found := not_above_simple(family, record.verdicts))
    ]
    nowhere = [r.setting.title for r in records if not above_simple_somewhere(r.verdicts)]
    return Section(
        "Where fair clipping should not be used",
        (
            "Label reweighting and thresholds need no group, reweighting needs only the groups' "
            "sizes. Where fair clipping is not better than one of them, these figures are no "
            "reason to prefer it to that one.",
            f"In neither picture is a family of ours better than all three on "
            f"{len(nowhere)} of {len(records)} settings: {'; '.join(nowhere) or 'none'}.",
            Notes(tuple(notes)),
        ),
    )
