"""The reports of an audit and of a comparison."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._frames import OVERALL, select
from .._plots import plot_by_group, plot_changes, plot_tradeoff, to_svg
from ._document import Report
from ._format import format_number
from ._parts import Picture, Section, Table

if TYPE_CHECKING:
    from .._audit import Audit
    from .._tradeoff import Tradeoff

_LIMITS = Section(
    "Limits",
    (
        "Intervals cover the draw of the rows: another sample of the same population, with the "
        "model as it is. They do not cover training it again, nor people who are not in the data.",
        "A p is the share of data sets with shuffled groups that show at least this gap; for "
        "equalized odds, groups are shuffled within each label. It says nothing about the size of "
        "a gap, nor about its cause.",
        "With the confidence of the intervals, no group (or cell) is below the lower bound. A "
        "maximum or minimum over groups has no interval: that of a bootstrap would cover far less "
        "often than it says.",
        "n/a marks what is undefined, mostly for want of rows. It is not 0.",
        "Labels may carry the past decisions of people. A figure that compares predictions with "
        "labels takes the labels as given.",
    ),
)


def audit_report(audit: "Audit", *, pictures: bool) -> Report:
    """Return the page of one model."""
    settings = audit.settings
    groups = audit.by_group[audit.by_group["n"].ne(0).fillna(True)]
    names = ("accuracy", "selection_rate") if pictures else ()
    return Report(
        title="Audit by group",
        lead=(
            f"{settings['n_rows']:,} rows, {len(groups)} groups. The favourable label is "
            f"{settings['favourable']}; differences are to {settings['reference'] or 'n/a'}."
        ),
        sections=(
            _flags(audit.warnings),
            Section("All rows", (_interval_table(audit, OVERALL),)),
            Section(
                "By group",
                (
                    Table(groups, "Rows and figures of each group.", "by_group"),
                    *(
                        [Table(_cell_table(audit, groups.index), "Rows of each cell.", "cells")]
                        if audit.cells is not None
                        else []
                    ),
                    *(_group_picture(audit, name) for name in names),
                ),
            ),
            Section(
                "Gaps",
                (
                    Table(audit.gaps, "Largest difference between two groups.", "gaps"),
                    "A constant prediction has no equalized odds difference at all. Read it beside "
                    "the balanced accuracy, "
                    f"{format_number(audit.overall['balanced_accuracy'])} on all rows, and the "
                    "rates that it is made of:",
                    Table(groups[["balanced_accuracy", "tpr", "fpr"]], "TPR and FPR by group."),
                    Table(audit.worst, "Lowest accuracy of a group and of a cell.", "worst"),
                ),
            ),
            Section(
                "Differences to the reference group",
                (
                    Table(
                        audit.disparities,
                        f"Group minus {settings['reference'] or 'n/a'}, and their ratio.",
                        "disparities",
                    ),
                ),
            ),
            Section(
                "Intervals",
                (Table(audit.intervals, "Every figure with its interval.", "intervals"),),
            ),
            _settings(settings),
            _LIMITS,
        ),
        data={"settings": settings, "warnings": audit.warnings},
    )


def tradeoff_report(found: "Tradeoff", *, pictures: bool) -> Report:
    """Return the page of several models."""
    settings = found.settings
    baseline = settings["baseline"]
    x, y = "accuracy", "worst_cell_accuracy"
    compared = [arm for arm in found.audits if arm != baseline]
    return Report(
        title="Trade-off between models",
        lead=(
            f"{len(found.audits)} models on the same {settings['n_rows']:,} rows, against "
            f"{baseline}. The favourable label is {settings['favourable']}."
        ),
        sections=(
            _flags(found.warnings),
            Section(
                "Models",
                (
                    Table(found.table, "Figures of each model.", "tradeoff"),
                    *(
                        [
                            Picture(
                                to_svg(plot_tradeoff(found.table, x, y).figure),
                                "Accuracy against the lowest accuracy of a (group, label) cell.",
                                found.table[[x, y]],
                            )
                        ]
                        if pictures
                        else []
                    ),
                ),
            ),
            Section(
                "Gaps",
                (
                    Table(_gap_table(found.audits), "Largest differences between groups.", "gaps"),
                    "A constant prediction has no equalized odds difference at all: read it beside "
                    "the balanced accuracy, and the TPR and FPR of each group below.",
                    Table(
                        _stack({arm: audit.worst for arm, audit in found.audits.items()}),
                        "Lowest accuracy of a group and of a cell.",
                        "worst",
                    ),
                ),
            ),
            Section(
                "Changes",
                (
                    f"Candidate minus {baseline}, paired by row.",
                    *(_changes_picture(found, arm) for arm in compared if pictures),
                    Table(found.changes, "Every change with its interval.", "changes"),
                ),
            ),
            Section(
                "By group",
                (
                    Table(
                        _stack({arm: audit.by_group for arm, audit in found.audits.items()}),
                        "Rows and figures of each group.",
                        "by_group",
                    ),
                ),
            ),
            _settings(settings),
            _LIMITS,
        ),
        data={"settings": settings, "warnings": found.warnings},
    )


def _flags(messages: list[str]) -> Section:
    return Section("Flags", tuple(messages) or ("No flag was raised.",))


def _interval_table(audit: "Audit", group: str) -> Table:
    return Table(
        select(audit.intervals, group=group), "Figures of all rows, with intervals.", group
    )


def _cell_table(audit: "Audit", present: "pd.Index[Any]") -> pd.DataFrame:
    return audit.cells.loc[present].add_prefix("y=")


def _group_picture(audit: "Audit", metric: str) -> Picture:
    return Picture(
        to_svg(plot_by_group(audit.intervals, metric).figure),
        f"{metric} of each group, with its interval.",
        select(audit.intervals, metric=metric),
    )


def _changes_picture(found: "Tradeoff", arm: str) -> Picture:
    rows = select(found.changes, arm=arm, metric="accuracy")
    caption = f"{arm}: change of accuracy of each group, with its interval."
    return Picture(to_svg(plot_changes(rows).figure), caption, rows)


def _gap_table(audits: Mapping[str, "Audit"]) -> pd.DataFrame:
    frame = _stack({arm: audit.gaps for arm, audit in audits.items()})
    balanced = {arm: audit.overall["balanced_accuracy"] for arm, audit in audits.items()}
    frame.insert(1, "balanced_accuracy", frame.index.get_level_values("arm").map(balanced))
    return frame


def _stack(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, names=["arm"])


def _settings(settings: Mapping[str, Any]) -> Section:
    flat = {key: value for key, value in settings.items() if key != "versions"}
    flat |= {f"version of {name}": value for name, value in settings["versions"].items()}
    values = ["n/a" if value is None else str(value) for value in flat.values()]
    frame = pd.DataFrame({"setting": list(flat), "value": values})
    return Section("Settings", (Table(frame, "What the figures were made with.", "settings"),))
