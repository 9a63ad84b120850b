"""Sections that both pages have."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._frames import OVERALL, group_names, select
from ._parts import Item, Notes, Section, Table
from ._sentences import figure_sentences

if TYPE_CHECKING:
    from .._audit import Audit

_UNKNOWN = "no group"  # the rows that lack a sensitive feature

_MOST_LABELS = 5  # labels whose own figures are put into sentences
_OF_ROWS = ("base_rate", "mean_true")
_OF_SCORES = ("auc", "brier", "log_loss", "ece")


def metrics_of(audit: "Audit") -> list[str]:
    """Return the names of the figures, in the order of the tables."""
    return [str(metric) for metric in audit.intervals.index.unique("metric")]


def score_metrics(audit: "Audit") -> list[str]:
    """Return the figures of the scores."""
    return [metric for metric in metrics_of(audit) if metric in _OF_SCORES]


def said_metrics(audit: "Audit") -> list[str]:
    """Return the figures that are put into sentences beside the table of the groups.

    Not those of rows and scores, which have sections of their own; not fnr, which is 1 - tpr; and
    of several labels the selection rate and tpr of the first five.
    """
    labels = [str(label) for label in audit.settings["labels"][:_MOST_LABELS]]
    of_label = {f"{name}[{label}]" for name in ("selection_rate", "tpr") for label in labels}
    return [
        metric
        for metric in metrics_of(audit)
        if metric in of_label
        or (not metric.endswith("]") and metric not in (*_OF_ROWS, *_OF_SCORES, "fnr"))
    ]


def brackets(settings: Mapping[str, Any]) -> str:
    """Return how to read the intervals of the sentences."""
    return (
        f"In brackets are {100 * settings['confidence']:g}% intervals. If that of a difference "
        "reaches from lower to higher, these rows do not settle which of the two is higher; it "
        "does not say that they are equal."
    )


def flags_section(messages: Sequence[str]) -> Section:
    """Return what to know before reading on."""
    return Section("Flags", (Notes(tuple(messages)) if messages else "No flag was raised.",))


def rows_section(audit: "Audit") -> Section:
    """Return the rows of each group and label, unknown ones too, and the base rates."""
    metrics = [m for m in metrics_of(audit) if m.partition("[")[0] in _OF_ROWS]
    said = figure_sentences(audit, metrics[:_MOST_LABELS])
    return Section(
        "Rows and base rates",
        (
            Table(_rows_table(audit, metrics), "Rows of each group, by label.", "rows"),
            *notes(said),
        ),
    )


def settings_section(settings: Mapping[str, Any]) -> Section:
    """Return what the figures were made with."""
    plain = {key: value for key, value in settings.items() if key != "versions"}
    plain |= {f"version of {name}": value for name, value in settings["versions"].items()}
    values = ["n/a" if value is None else str(value) for value in plain.values()]
    frame = pd.DataFrame({"setting": list(plain), "value": values})
    caption = "What the figures were made with. The hash is that of the rows as they were read."
    return Section("Settings", (Table(frame, caption, "settings"),))


def notes(sentences: Sequence[str]) -> list[Item]:
    """Return a list of sentences, or nothing."""
    return [Notes(tuple(sentences))] if sentences else []


def _rows_table(audit: "Audit", metrics: Sequence[str]) -> pd.DataFrame:
    present = audit.by_group["n"].ne(0).fillna(True).to_numpy(dtype=bool)
    names = group_names(audit.intervals)
    sizes = select(audit.intervals, group=OVERALL)["n"]
    counts = audit.by_group.loc[present, ["n"]].set_axis(names)
    counts.loc[OVERALL] = audit.settings["n_rows"]
    if audit.cells is not None:
        cells = audit.cells[present].set_axis(names)
        labels = audit.settings["labels"]
        of = ("fpr", "tpr") if len(labels) == 2 else [f"tpr[{label}]" for label in labels]
        cells.loc[OVERALL] = sizes[list(of)].to_numpy()  # the rows that these rates look at
        counts = counts.join(cells.add_prefix("y="))
    values = audit.intervals["value"].unstack("metric")[list(metrics)]
    if len(metrics) == 1:
        values = values.join(select(audit.intervals, metric=metrics[0])[["low", "high"]])
    if audit.settings["n_unknown"]:
        counts.loc[_UNKNOWN, "n"] = audit.settings["n_unknown"]
    frame = counts.astype("Int64").join(values)
    return frame.reindex([OVERALL, *frame.index.drop(OVERALL)]).rename_axis("group")
