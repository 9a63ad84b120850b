"""The few sentences at the top of a page."""

from typing import TYPE_CHECKING

import pandas as pd

from .._frames import OVERALL
from ._change_sentences import change_words
from ._sentences import gap_words, groups_with, only, overall_sentence
from ._words import figure_of, named, number, row

if TYPE_CHECKING:
    from .._audit import Audit
    from .._tradeoff import Tradeoff

_MOST = 5  # candidates in words


def audit_in_short(audit: "Audit") -> list[str]:
    """Return three to six sentences: all rows, who fares worst, who is selected, the widest gap."""
    known = audit.intervals.index.unique("metric")
    first = ("accuracy", "balanced_accuracy", "mae", "bias")
    return [
        *(overall_sentence(audit, metric) for metric in first if metric in known),
        *_worst(audit),
        *_selected(audit),
        *_widest(audit),
    ]


def tradeoff_in_short(found: "Tradeoff") -> list[str]:
    """Return one sentence a candidate; those that no other model beats come first."""
    baseline = found.settings["baseline"]
    candidates = found.table.drop(index=baseline)
    if candidates.empty:
        return [f"There is one model, {named(baseline)}, and nothing to compare it with."]
    if "pareto" in candidates:
        candidates = candidates.sort_values("pareto", ascending=False, kind="stable")
    sentences = [_candidate(found, str(arm)) for arm in candidates.index[:_MOST]]
    if len(candidates) > _MOST:
        sentences.append(f"{len(candidates) - _MOST:,} further models stand in the tables.")
    return sentences


def _worst(audit: "Audit") -> list[str]:
    parts = []
    for name, found in audit.worst.dropna(subset=["value"]).iterrows():
        _, kind, metric = str(name).split("_", 2)
        figure = figure_of(metric, audit.settings)
        of = " of 1,000" if figure.is_share else ""
        where = f"{named(found['name'])}{only(found['n'], audit.settings)}"
        parts.append(f"in the {kind} {where}, {figure.level(found['value'])}{of}")
    if not parts:
        return []
    end = "Least often right" if "worst_group_accuracy" in audit.worst.index else "Furthest off"
    return [f"{end}: {'; '.join(parts)}."]


def _widest(audit: "Audit") -> list[str]:
    gaps = audit.gaps.dropna(subset=["value"])
    gaps = gaps[gaps["lowest"] != gaps["highest"]]
    return [
        gap_words(audit, str(name), gap)
        for name, gap in gaps.iterrows()
        if name in ("equalized_odds_difference", "bias_difference")
    ]


def _candidate(found: "Tradeoff", arm: str) -> str:
    baseline = found.settings["baseline"]
    metric = "mae" if "mae" in found.table else "accuracy"
    change = row(found.changes, (arm, OVERALL, metric))
    parts = [f"{metric} on all rows {change_words(figure_of(metric, found.settings), change)}"]
    for name in ("worst_cell_accuracy", "worst_group_mae"):
        if name in found.table:
            after, before = (_worst_of(found.table, each, name) for each in (arm, baseline))
            parts.append(f"{name} {after} instead of {before}")
    for name in ("equalized_odds_difference", "balanced_accuracy"):  # never one without the other
        if name in found.table:
            after, before = (number(found.table[name][each]) for each in (arm, baseline))
            parts.append(f"{name} {after} instead of {before}")
    return f"{named(arm)} against {named(baseline)}: {'; '.join(parts)}."


def _worst_of(table: pd.DataFrame, arm: str, name: str) -> str:
    value = table[name][arm]
    where = table[name.rpartition("_")[0]][arm]
    return "n/a" if pd.isna(value) else f"{number(value)} (in {named(where)})"


def _selected(audit: "Audit") -> list[str]:
    metric = "selection_rate"
    if metric not in audit.intervals.index.unique("metric"):
        return []
    rows = groups_with(audit.intervals, metric)
    rates: pd.Series[float] = rows["value"].dropna()
    if len(rates) < 2 or rates.max() == 0:
        return []
    figure = figure_of(metric, audit.settings)
    low, high = str(rates.idxmin()), str(rates.idxmax())
    of = {group: f"{named(group)}{only(rows['n'][group], audit.settings)}" for group in (low, high)}
    return [
        f"{figure.title}: of 1,000 rows in {of[high]}, {figure.level(rates[high])} {figure.did}; "
        f"in {of[low]} {figure.level(rates[low])}, which is "
        f"{number(rates[low] / rates[high], 2)} times as many."
    ]
