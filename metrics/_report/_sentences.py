"""The tables of an audit as sentences; what a table does not hold, no sentence says."""

from collections.abc import Iterable, Mapping
from math import isnan
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._frames import OVERALL, select
from ._words import Figure, figure_of, listed, named, number, row

if TYPE_CHECKING:
    from .._audit import Audit

FEW = 4  # groups that are all named; of more, those with the lowest and the highest figure


def overall_sentence(audit: "Audit", metric: str) -> str:
    """Say one figure of all rows, with its interval."""
    figure = figure_of(metric, audit.settings)
    found = row(audit.intervals, (OVERALL, metric))
    text = f"{_subject(figure, '')}{_did(figure, found['value'])}"
    if isnan(found["low"]):
        return f"{text}."
    return f"{text} (between {figure.level(found['low'])} and {figure.level(found['high'])})."


def figure_sentences(audit: "Audit", metrics: Iterable[str]) -> list[str]:
    """Say figures of the groups, and the difference of each to the reference group."""
    found = (_figure_sentence(audit, metric) for metric in metrics)
    return [sentence for sentence in found if sentence]


def ratio_sentences(audit: "Audit", metrics: Iterable[str]) -> list[str]:
    """Say the ratios of the groups to the reference group."""
    sentences = []
    for metric in metrics:
        rows = select(audit.disparities, metric=metric).dropna(subset=["ratio"])
        shown = extremes(rows["ratio"])
        parts = [f"{_ratio(row(rows, group))} in {named(group)}" for group in shown]
        if parts:
            title = figure_of(metric, audit.settings).title
            end = left_out(len(rows), len(shown))
            sentences.append(f"{title} over the reference group's: {'; '.join(parts)}{end}.")
    return sentences


def gap_sentences(audit: "Audit") -> list[str]:
    """Say each gap: between which groups it is, and how often chance alone shows it."""
    return [_gap_sentence(audit, str(name), gap) for name, gap in audit.gaps.iterrows()]


def worst_sentences(audit: "Audit") -> list[str]:
    """Say the worst group and the worst cell, with the bound that holds for all of them."""
    rows = audit.worst.dropna(subset=["value"])
    return [_worst_sentence(audit, str(name), found) for name, found in rows.iterrows()]


def groups_with(intervals: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of one figure, a group each; hidden groups (n is n/a) are left out."""
    rows = select(intervals, metric=metric).drop(index=OVERALL)
    return rows[rows["n"].notna()]


def extremes(values: "pd.Series[Any]") -> list[str]:
    """Return the groups to name: all of a few, else those with the lowest and highest value."""
    if len(values) <= FEW:
        return [str(group) for group in values.index]
    return list(dict.fromkeys([str(values.idxmin()), str(values.idxmax())]))


def left_out(n_groups: int, n_shown: int) -> str:
    """Return the end of a sentence that names some of the groups only."""
    return f"; the other {n_groups - n_shown:,} groups lie between" if n_groups > n_shown else ""


def difference_words(figure: Figure, value: float, low: float, high: float) -> str:
    """Return "11.2 points lower (between 8.1 and 14.3)"."""
    text = "the same"
    if value != 0:
        text = f"{figure.distance(value)}{figure.unit} {_direction(value)}"
    if isnan(low) or isnan(high):
        return text
    if value != 0 and low * high > 0:
        near, far = sorted((abs(low), abs(high)))
        return f"{text} (between {figure.distance(near)} and {figure.distance(far)})"
    ends = (f"{figure.distance(end)} {_direction(end)}" for end in (low, high))
    return f"{text} (between {' and '.join(ends)})"


def only(n: float, settings: Mapping[str, Any]) -> str:
    """Return what follows a group's name where few rows are behind its figure."""
    if n >= settings["min_group_size"]:
        return ""
    return f" (only {n:.0f} such row{'' if n == 1 else 's'})"


def _figure_sentence(audit: "Audit", metric: str) -> str:
    figure = figure_of(metric, audit.settings)
    rows = groups_with(audit.intervals, metric)
    known = rows[rows["value"].notna()]
    if known.empty:
        return f"{figure.title}: n/a in every group." if len(rows) else ""
    values, reference = known["value"], audit.settings["reference"]
    base = reference if reference in known.index else str(values.idxmin())
    others = values.drop(index=base)
    shown = extremes(others)
    where = {
        group: f"{named(group)}{only(known['n'][group], audit.settings)}"
        for group in (base, *shown)
    }
    parts = [f"{_subject(figure, where[base])}{_did(figure, values[base])}"]
    parts += [
        f"in {where[group]} {figure.level(values[group])}"
        f"{_against_reference(audit, figure, metric, group)}"
        for group in shown
    ]
    undefined = [str(group) for group in rows.index[rows["value"].isna()]]
    end = f" n/a in {listed(undefined)}." if undefined else ""
    return f"{'; '.join(parts)}{left_out(len(others), len(shown))}.{end}"


def _against_reference(audit: "Audit", figure: Figure, metric: str, group: str) -> str:
    if (group, metric) not in audit.disparities.index:
        return ""
    found = row(audit.disparities, (group, metric))
    if isnan(found["difference"]):
        return ""
    return f", {difference_words(figure, found['difference'], found['low'], found['high'])}"


def _gap_sentence(audit: "Audit", name: str, gap: "pd.Series[Any]") -> str:
    if isnan(gap["value"]):
        hidden = " is hidden, or" if "suppress_below" in audit.settings else ""
        return f"{name}: n/a, for a group{hidden} lacks the rows that it is about."
    if gap["lowest"] == gap["highest"]:
        return f"{name}: 0, for there is one group or all groups are the same in it."
    return f"{gap_words(audit, name, gap)}{_p_words(gap['p'], name)}"


def gap_words(audit: "Audit", name: str, gap: "pd.Series[Any]") -> str:
    """Return a gap that is not 0 and the two groups that it is between."""
    rate, lowest, highest = str(gap["rate"]), str(gap["lowest"]), str(gap["highest"])
    figure = figure_of(rate, audit.settings)
    of = "" if name == f"{rate}_difference" else f", of {rate}"
    text = f"{name}{of}: {figure.distance(gap['value'])}{figure.unit}"
    if (highest, rate) in audit.intervals.index:
        low, high = (row(audit.intervals, (group, rate)) for group in (lowest, highest))
        of_rows = f" of 1,000 {figure.counts}" if figure.is_share else ""
        return (
            f"{text}, from {figure.level(low['value'])}{of_rows} in {named(lowest)}"
            f"{only(low['n'], audit.settings)} to {figure.level(high['value'])} in "
            f"{named(highest)}{only(high['n'], audit.settings)}."
        )
    return (
        f"{text} more of the {figure.counts} {figure.did} in {named(highest)} than in "
        f"{named(lowest)}."
    )


def _p_words(p: float, gap: str) -> str:
    """Return a permutation p as a count of reshuffled data sets."""
    if isnan(p):
        return ""
    how = " within each label" if gap.startswith("equalized_odds") else ""
    return (
        f" Of 1,000 data sets with the groups reshuffled{how}, "
        f"{'fewer than 1' if p < 0.001 else f'about {1000 * p:,.0f}'} would show a gap at least "
        f"this large (p = {number(p, 4)})."
    )


def _worst_sentence(audit: "Audit", name: str, found: "pd.Series[Any]") -> str:
    _, kind, metric = name.split("_", 2)
    figure = figure_of(metric, audit.settings)
    what = "group" if kind == "group" else "cell (the rows of one group with one label)"
    end, side = ("Lowest", "below") if figure.is_share else ("Highest", "above")
    where = f"{named(found['name'])}{only(found['n'], audit.settings)}"
    level = f"{figure.level(found['value'])}{' of 1,000 rows' if figure.is_share else ''}"
    text = f"{end} {metric} of a {what}: {level}, in {where}."
    if isnan(found["bound"]):
        return text
    level = f"{100 * audit.settings['confidence']:g}%"
    return f"{text} With {level} confidence no {kind} is {side} {figure.level(found['bound'])}."


def _subject(figure: Figure, where: str) -> str:
    """Return "Accuracy: of 1,000 rows in sex=male, " or "Bias (...): in sex=male "."""
    inside = f" in {where}" if where else ""
    if figure.is_share:
        return f"{figure.title}: of 1,000 {figure.counts}{inside}, "
    return f"{figure.title} ({figure.counts}):{inside} "


def _did(figure: Figure, value: float) -> str:
    return f"{figure.level(value)} {figure.did}".rstrip()


def _ratio(found: "pd.Series[Any]") -> str:
    bounds = f" (between {number(found['ratio_low'], 2)} and {number(found['ratio_high'], 2)})"
    return f"{number(found['ratio'], 2)}{'' if isnan(found['ratio_low']) else bounds}"


def _direction(value: float) -> str:
    return "lower" if value < 0 else "higher"
