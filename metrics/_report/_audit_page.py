"""The report of one model."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .._frames import select
from .._plots import plot_by_group, to_svg
from ._document import Report
from ._in_short import audit_in_short
from ._limits import page_limits
from ._parts import Item, Picture, Section, Table
from ._score_items import calibration_items, matched_items, sweep_items
from ._sections import (
    brackets,
    flags_section,
    metrics_of,
    notes,
    rows_section,
    said_metrics,
    score_metrics,
    settings_section,
)
from ._sentences import figure_sentences, gap_sentences, ratio_sentences, worst_sentences
from ._threshold_section import thresholds_section
from ._thresholds import read_thresholds
from ._words import counted, named

if TYPE_CHECKING:
    from .._audit import Audit

_PICTURED = ("accuracy", "selection_rate", "mae", "bias")
_WITH_RATIOS = ("selection_rate", "tpr", "fpr", "mae")


def audit_report(audit: "Audit", *, pictures: bool, thresholds: str | Path | None = None) -> Report:
    """Return the page of one model.

    Args:
        audit: The figures, suppressed already where that is wanted.
        pictures: Whether to draw; only HTML shows them.
        thresholds: A file as ``thresholds.toml``; None is that one.
    """
    settings = audit.settings
    sections = [
        flags_section(audit.warnings),
        Section("In short", (brackets(audit.settings), *notes(audit_in_short(audit)))),
        rows_section(audit),
        _groups_section(audit, pictures=pictures),
        _gaps_section(audit, pictures=pictures),
        thresholds_section({"": audit}, read_thresholds(thresholds)),
        _differences_section(audit),
        _scores_section(audit, pictures=pictures),
        Section(
            "Every figure with its interval",
            (Table(audit.intervals, "Figures of all rows and of each group.", "intervals"),),
        ),
        settings_section(settings),
        page_limits(audit),
    ]
    return Report(
        title="Audit by group",
        lead=_lead(audit),
        sections=tuple(section for section in sections if section.body),
        data={"settings": settings, "warnings": audit.warnings},
    )


def _lead(audit: "Audit") -> str:
    settings = audit.settings
    n_groups = len(_present(audit))
    text = f"{counted(settings['n_rows'], 'row')}, {counted(n_groups, 'group')}."
    if settings["favourable"] is not None:
        text += f" The favourable label is {named(settings['favourable'])}."
    if settings["reference"] is not None and n_groups > 1:
        text += f" Groups are compared with {named(settings['reference'])}."
    if settings["weighted"]:
        text += " Rows count by their weights."
    return text


def _groups_section(audit: "Audit", *, pictures: bool) -> Section:
    drawn = [metric for metric in _PICTURED if metric in metrics_of(audit)] if pictures else []
    return Section(
        "Figures by group",
        (
            Table(_present(audit), "Rows and figures of each group.", "by_group"),
            *notes(figure_sentences(audit, said_metrics(audit))),
            *(_group_picture(audit, metric) for metric in drawn),
        ),
    )


def _gaps_section(audit: "Audit", *, pictures: bool) -> Section:
    body: list[Item] = [
        Table(audit.gaps, "The largest difference between two groups, figure by figure.", "gaps"),
        *notes(gap_sentences(audit)),
    ]
    if {"tpr", "fpr"} <= set(metrics_of(audit)):
        body += [
            "A constant prediction has no equalized odds difference. Read it beside the balanced "
            "accuracy and the rates that it is made of:",
            Table(
                _beside(audit.intervals, ("balanced_accuracy", "tpr", "fpr")),
                "Balanced accuracy, TPR and FPR of each group, with intervals.",
            ),
        ]
    body += [
        Table(audit.worst, "The worst group and the worst cell.", "worst"),
        *notes(worst_sentences(audit)),
    ]
    return Section(
        "Gaps",
        (
            *body,
            *calibration_items({"": audit}, pictures=pictures),
            *matched_items(audit),
        ),
    )


def _differences_section(audit: "Audit") -> Section:
    if audit.disparities.empty:
        return Section("Differences and ratios", ())
    reference = audit.settings["reference"]
    to = "the reference group" if reference is None else named(reference)
    metrics = [metric for metric in _WITH_RATIOS if metric in metrics_of(audit)]
    return Section(
        "Differences and ratios",
        (
            Table(audit.disparities, f"Each group minus {to}, and over it.", "disparities"),
            *notes(ratio_sentences(audit, metrics)),
        ),
    )


def _scores_section(audit: "Audit", *, pictures: bool) -> Section:
    said = notes(figure_sentences(audit, score_metrics(audit)))
    return Section("Scores", (*said, *sweep_items(audit, pictures=pictures)))


def _group_picture(audit: "Audit", metric: str) -> Picture:
    return Picture(
        to_svg(plot_by_group(audit.intervals, metric).figure),
        f"{metric} of each group, with its interval.",
        select(audit.intervals, metric=metric),
    )


def _present(audit: "Audit") -> pd.DataFrame:
    return audit.by_group[audit.by_group["n"].ne(0).fillna(True)]


def _beside(intervals: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Return some figures side by side, each with its bounds."""
    rows = {metric: select(intervals, metric=metric) for metric in metrics}
    return pd.DataFrame(
        {
            f"{metric}{'' if part == 'value' else f' {part}'}": frame[part]
            for metric, frame in rows.items()
            for part in ("value", "low", "high")
        }
    )
