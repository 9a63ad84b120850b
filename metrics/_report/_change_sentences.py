"""What each candidate changed against the baseline, as sentences."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from .._frames import OVERALL, select
from ._sentences import FEW, difference_words, extremes
from ._words import Figure, figure_of, named, row

if TYPE_CHECKING:
    from .._tradeoff import Tradeoff


def change_sentences(found: "Tradeoff", arm: str, metrics: tuple[str, ...]) -> list[str]:
    """Say what an arm changed in some figures: on all rows, then in the groups."""
    changes = select(found.changes, arm=arm)
    return [
        _sentence(found, arm, metric, select(changes, metric=metric))
        for metric in metrics
        if metric in changes.index.get_level_values("metric")
    ]


def change_words(figure: Figure, found: "pd.Series[Any]") -> str:
    """Return "1.9 points lower (between 1.5 and 2.3)"."""
    return difference_words(figure, found["change"], found["low"], found["high"])


def _sentence(found: "Tradeoff", arm: str, metric: str, rows: pd.DataFrame) -> str:
    figure = figure_of(metric, found.settings)
    overall = row(rows, OVERALL)
    baseline = named(found.settings["baseline"])
    before, after = figure.level(overall["baseline"]), figure.level(overall["candidate"])
    if figure.is_share:
        text = (
            f"{figure.title}: of 1,000 {figure.counts}, {before} {figure.did} by {baseline} and "
            f"{after} by {named(arm)}"
        )
    else:
        text = f"{figure.title}: {before} of {baseline} and {after} of {named(arm)}"
    text += f": {change_words(figure, overall)}. "
    groups = rows.drop(index=OVERALL).dropna(subset=["change"])
    return (text + _by_group(figure, groups)).rstrip()


def _by_group(figure: Figure, groups: pd.DataFrame) -> str:
    if groups.empty:
        return ""
    if len(groups) <= FEW:
        parts = [f"{named(group)} {change_words(figure, of)}" for group, of in groups.iterrows()]
        return f"By group: {'; '.join(parts)}."
    fell, rose = int((groups["high"] < 0).sum()), int((groups["low"] > 0).sum())
    ends = extremes(groups["change"])
    parts = [f"{named(group)} {change_words(figure, row(groups, group))}" for group in ends]
    return (
        f"Of {len(groups):,} groups the whole interval is below 0 in {fell:,} and above 0 in "
        f"{rose:,}. At the ends: {'; '.join(parts)}."
    )
