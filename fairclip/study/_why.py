"""Why the goal is met or missed: what there is to be gained, who gains it, and who could tell."""

from collections.abc import Sequence

import pandas as pd

from fairclip.metrics import Notes, Section, Table
from fairclip.study._families import BASELINE, FAMILIES, GROUP_BLIND, PRIMARY, RIVALS
from fairclip.study._goal import BOTH, Goal, goal_of
from fairclip.study._record import Record
from fairclip.study._verdicts import MARGIN, POINTS
from fairclip.study._views import VIEWS, View
from fairclip.study._words import half_width

_WORST_CELL, _ODDS = VIEWS
_HELD = "settings: better or no worse than every rival, {}"


def why_section(records: Sequence[Record], goals: Sequence[Goal]) -> Section:
    """Show what each family gains over doing nothing, and measure the rivals by the same goal."""
    gains = [
        Table(
            gains_table(records, view).map(_points),
            f"Points gained over doing nothing (unclipped), picture: {view.title}.",
        )
        for view in VIEWS
    ]
    measured = Table(
        yardstick_table(records, goals),
        "Where each family would stand if the goal were its own: ours against all rivals, a rival "
        "against the other rivals.",
    )
    return Section("Why", (Notes(tuple(why_sentences(records, goals))), *gains, measured))


def why_in_short(records: Sequence[Record], goals: Sequence[Goal]) -> str:
    """Return how far the rivals are, and the reasons, in two sentences."""
    return (
        f"{_most_held(records, goals)} What goes with it: in the worst cell the families that know "
        f"no group gain {_blind_share(records):.0%} of what the best family gains, in equalized "
        f"odds the best family gains {_odds_gain(records):.1f} points (medians over the settings), "
        f"and on {_n_unresolved(records)} of {len(records)} settings even equal families would be "
        "undecided."
    )


def why_sentences(records: Sequence[Record], goals: Sequence[Goal]) -> list[str]:
    """Return what limits every family, with its figures."""
    n = len(records)
    return [
        f"{_most_held(records, goals)} A rival is measured by the nine other rivals, ours by all "
        "ten.",
        f"Worst cell: label reweighting or thresholds, which know no group, gain "
        f"{_blind_share(records):.0%} of what the best family gains over doing nothing, in the "
        f"median over the settings. On {_n_by_label(records)} of {n} settings every group's recall "
        "of the one label is below every group's recall of the other with unclipped: there the gap "
        "between the labels is larger than any gap between the groups.",
        f"Equalized odds: the best family gains {_odds_gain(records):.1f} points in the median "
        f"over the settings, and on {_n_gained(records, _ODDS)} of {n} some family, ours or a "
        "rival, is shown to be better than doing nothing. Where there is little to gain, there is "
        "little room to show that one family is better than another.",
        f"On {_n_unresolved(records)} of {n} settings, in one of the pictures, half of the median "
        f"interval is more than the margin of {MARGIN * POINTS:g} points: there even equal "
        "families would be undecided, which counts as a miss.",
        f"The best family is the largest of {len(FAMILIES)} means, which flatters it: what it "
        "gains is less than it seems, and the share of it that others reach is more.",
    ]


def gains_table(records: Sequence[Record], view: View) -> pd.DataFrame:
    """Return the points over doing nothing, in the mean over the seeds, by family and setting.

    A family that was not run has NaN.
    """
    columns = {}
    for record in records:
        areas = record.hypervolumes[view].groupby("family")["hypervolume"].mean()
        gained = ((areas - areas[BASELINE]) * POINTS).round(9)
        columns[record.setting.title] = gained.reindex([family.name for family in FAMILIES])
    return pd.DataFrame(columns).rename_axis("family")


def yardstick_table(records: Sequence[Record], goals: Sequence[Goal]) -> pd.DataFrame:
    """Return for each family on how many settings it reaches each part of the goal.

    Args:
        records: Of the settings that count.
        goals: Of our families.
    """
    among = {record.setting.name: record.rival_verdicts for record in records}
    rows = [
        {
            "family": goal.family,
            **{_HELD.format(key): n for key, n in goal.held.items()},
            f"settings: better than the group-blind, {BOTH}": goal.above_blind[BOTH],
        }
        for goal in [*goals, *(goal_of(rival, among, n_missing=0) for rival in RIVALS)]
    ]
    return pd.DataFrame(rows).set_index("family")


def _most_held(records: Sequence[Record], goals: Sequence[Goal]) -> str:
    """Say which families are better or no worse than every rival on the most settings."""
    held = yardstick_table(records, goals)[_HELD.format(BOTH)]
    if not held.max():
        return "By the same measure no family, ours or a rival, holds on any setting."
    names = ", ".join(held.index[held == held.max()])
    return (
        f"By the same measure no family, ours or a rival, holds on more than {held.max()} "
        f"of {len(records)} settings ({names})."
    )


def _points(gained: float) -> str:
    return "not run" if pd.isna(gained) else f"{gained:+z.1f}"


def _blind_share(records: Sequence[Record]) -> float:
    """Return the median share of the best gain; a setting on which nothing gains has none."""
    gains = gains_table(records, _WORST_CELL)
    best = gains.max()[gains.max() > 0]
    return float((gains.loc[list(GROUP_BLIND), best.index].max() / best).median())


def _odds_gain(records: Sequence[Record]) -> float:
    return float(gains_table(records, _ODDS).max().median())


def _n_by_label(records: Sequence[Record]) -> int:
    """Return on how many settings all recalls of one label are below all of the other."""
    found = 0
    for record in records:
        means = record.cells.loc[BASELINE].filter(regex=r", y=[01]_mean$")
        is_positive = means.index.str.endswith(", y=1_mean")
        positive, negative = means[is_positive], means[~is_positive]
        found += bool(positive.max() < negative.min() or negative.max() < positive.min())
    return found


def _n_gained(records: Sequence[Record], view: View) -> int:
    """Return on how many settings some family is better than doing nothing."""
    found = 0
    for record in records:
        said = pd.concat([record.verdicts, record.rival_verdicts])
        own = said[(said["view"] == view.title) & (said["rival"] == BASELINE)]
        found += bool((own["verdict"] == "better").any())
    return found


def _n_unresolved(records: Sequence[Record]) -> int:
    """Return on how many settings the interval is wider than the margin in a picture."""
    tables = [record.verdicts for record in records]
    return sum(
        max(half_width(table[table["view"] == view.title]) for view in VIEWS) > MARGIN * POINTS
        for table in (table[table["family"].isin(PRIMARY)] for table in tables)
    )
