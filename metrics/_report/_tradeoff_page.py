"""The report of several models on the same rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .._frames import OVERALL, select
from .._plots import plot_changes, plot_tradeoff, to_svg
from ._change_sentences import change_sentences
from ._document import Report
from ._in_short import tradeoff_in_short
from ._limits import page_limits
from ._parts import Item, Picture, Section, Table
from ._score_items import calibration_items
from ._sections import (
    brackets,
    flags_section,
    notes,
    rows_section,
    settings_section,
)
from ._sentences import gap_sentences
from ._threshold_section import thresholds_section
from ._thresholds import read_thresholds
from ._words import named

if TYPE_CHECKING:
    from .._audit import Audit
    from .._tradeoff import Tradeoff

_SAID = ("accuracy", "selection_rate", "tpr", "fpr", "mae", "bias")
_MOST_SAID = 3  # candidates whose changes are all put into sentences; of more, the first figure
_AXES = (("accuracy", "worst_cell_accuracy"), ("mae", "worst_group_mae"))


def tradeoff_report(
    found: "Tradeoff", *, pictures: bool, thresholds: str | Path | None = None
) -> Report:
    """Return the page of several models.

    Args:
        found: The figures, suppressed already where that is wanted.
        pictures: Whether to draw; only HTML shows them.
        thresholds: A file as ``thresholds.toml``; None is that one.
    """
    baseline = found.audits[found.settings["baseline"]]
    sections = (
        flags_section(found.warnings),
        Section("In short", (brackets(found.settings), *notes(tradeoff_in_short(found)))),
        _models_section(found, pictures=pictures),
        rows_section(baseline),
        _changes_section(found, pictures=pictures),
        _gaps_section(found, pictures=pictures),
        thresholds_section(found.audits, read_thresholds(thresholds)),
        Section(
            "Figures by group",
            (
                Table(
                    _stack({arm: audit.intervals for arm, audit in found.audits.items()}),
                    "Figures of each model, of all rows and of each group, with intervals.",
                    "intervals",
                ),
            ),
        ),
        settings_section(found.settings),
        page_limits(baseline),
    )
    return Report(
        title="Trade-off between models",
        lead=_lead(found),
        sections=tuple(section for section in sections if section.body),
        data={"settings": found.settings, "warnings": found.warnings},
    )


def _lead(found: "Tradeoff") -> str:
    settings = found.settings
    text = (
        f"{len(found.audits)} models on the same {settings['n_rows']:,} rows; changes are against "
        f"{named(settings['baseline'])}."
    )
    if settings["favourable"] is not None:
        text += f" The favourable label is {named(settings['favourable'])}."
    return text


def _models_section(found: "Tradeoff", *, pictures: bool) -> Section:
    body: list[Item] = [Table(found.table, "Figures of each model.", "tradeoff")]
    if "pareto" in found.table:
        on_front = [named(arm) for arm in found.table.index[found.table["pareto"].fillna(False)]]
        both, worst = "accuracy and worst cell accuracy", "A worst cell is a minimum"
        if "mae" in found.table:
            both, worst = "mae and that of the worst group", "A worst group is a maximum"
        body.append(
            f"On the Pareto front, where no other model is at least as good in {both} and better "
            f"in one: {', '.join(on_front) or 'none'}. {worst}, and looks worse the more of them "
            "there are."
        )
    for x, y in _AXES:
        if pictures and {x, y} <= set(found.table):
            svg = to_svg(plot_tradeoff(found.table, x, y).figure)
            body.append(Picture(svg, f"{y} against {x}, a point a model.", found.table[[x, y]]))
    return Section("Models", tuple(body))


def _changes_section(found: "Tradeoff", *, pictures: bool) -> Section:
    candidates = [arm for arm in found.audits if arm != found.settings["baseline"]]
    if not candidates:
        return Section("What changed", ())
    metrics = found.changes.index.unique("metric")
    known = tuple(metric for metric in _SAID if metric in metrics)
    few = len(candidates) <= _MOST_SAID
    said = known if few else known[:1]
    body: list[Item] = [
        f"Candidate minus {named(found.settings['baseline'])}, paired by row: the interval is that "
        "of the rows on which the two models differ."
    ]
    for arm in candidates:
        body += notes(change_sentences(found, arm, said))
        if few:
            body += [
                _changed(found, arm, metric, drawn=pictures and metric == said[0])
                for metric in said
            ]
    body.append(
        Table(
            found.changes, "Every figure: baseline, candidate, change with its interval.", "changes"
        )
    )
    return Section("What changed", tuple(body))


def _changed(found: "Tradeoff", arm: str, metric: str, *, drawn: bool) -> Picture | Table:
    rows = select(found.changes, arm=arm, metric=metric)
    caption = f"{named(arm)}: {metric} of all rows and of each group, and its change."
    return (
        Picture(to_svg(plot_changes(rows, metric=metric).figure), caption, rows)
        if drawn
        else Table(rows, caption)
    )


def _gaps_section(found: "Tradeoff", *, pictures: bool) -> Section:
    audits = found.audits
    body: list[Item] = [
        Table(_gap_table(audits), "The largest differences between two groups.", "gaps"),
        *notes(
            [
                f"{named(arm)}: {text}"
                for arm, audit in audits.items()
                for text in gap_sentences(audit)
            ]
            if len(audits) <= _MOST_SAID + 1
            else []
        ),
    ]
    rates = found.changes.index.unique("metric").intersection(["tpr", "fpr"])
    if len(rates) == 2:
        body += [
            "A constant prediction has no equalized odds difference. Read it beside the balanced "
            "accuracy in the table above and the rates that it is made of:",
            Table(_rates_table(audits), "TPR and FPR of each group, model by model."),
        ]
    body.append(
        Table(
            _stack({arm: audit.worst for arm, audit in audits.items()}),
            "The worst group and the worst cell of each model.",
            "worst",
        )
    )
    body += calibration_items(audits, pictures=pictures)
    if found.matched is not None:
        body += [
            "Matched selection rate: every model cut so that, as nearly as its scores allow, it "
            f"selects as many rows as {named(found.settings['baseline'])}. With selection rates "
            "alike, a gap that differs does not come from how many are selected.",
            Table(found.matched, "The models at one selection rate.", "matched"),
        ]
    return Section("Gaps", tuple(body))


def _gap_table(audits: Mapping[str, "Audit"]) -> pd.DataFrame:
    frame = _stack({arm: audit.gaps for arm, audit in audits.items()})
    if all("balanced_accuracy" in audit.overall for audit in audits.values()):
        balanced = {arm: audit.overall["balanced_accuracy"] for arm, audit in audits.items()}
        frame.insert(1, "balanced_accuracy", frame.index.get_level_values("arm").map(balanced))
    return frame


def _rates_table(audits: Mapping[str, "Audit"]) -> pd.DataFrame:
    """Return TPR and FPR of each group, a column a model."""
    columns = {
        f"{metric} {arm}": select(audit.intervals, metric=metric)["value"].drop(index=OVERALL)
        for metric in ("tpr", "fpr")
        for arm, audit in audits.items()
    }
    return pd.DataFrame(columns).rename_axis("group")


def _stack(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, names=["arm"])
