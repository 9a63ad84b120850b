"""The part of a model card that an audit or a comparison fills."""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._frames import OVERALL, select
from .._tradeoff import Tradeoff
from ._document import Report
from ._in_short import tradeoff_in_short
from ._limits import limits
from ._markdown import markdown_text
from ._parts import Item, Section, Table
from ._sections import metrics_of, notes
from ._sentences import gap_sentences, groups_with, worst_sentences
from ._words import counted, figure_of, listed, named, number

if TYPE_CHECKING:
    from .._audit import Audit

_MOST_GROUPS = 10
_MOST_ARMS = 5
_HEADLINE = ("accuracy", "balanced_accuracy", "selection_rate", "tpr", "fpr", "mae", "bias", "auc")
_OF_ARMS = (
    "accuracy",
    "balanced_accuracy",
    "worst_group_accuracy",
    "worst_cell_accuracy",
    "equalized_odds_difference",
    "mae",
    "worst_group_mae",
)


def model_card(found: "Audit | Tradeoff") -> str:
    """Return the sections of a model card that the figures can fill, as Markdown.

    Short enough to paste: of more than ten groups, those with the lowest and the highest figure.
    What the rows do not tell (where they are from, what the model is for) is left to its author.

    Args:
        found: An audit, or a comparison: then the groups are those of each model, and the baseline
            is the first.

    Returns:
        Markdown from the heading "Factors" on, all text escaped.

    Source:
        M. Mitchell et al. (2019), https://doi.org/10.1145/3287560.3287596, whose headings it has.

    Example:
        >>> from fairclip.metrics import audit
        >>> from fairclip.metrics import model_card
        >>> found = audit([0, 1, 0, 1], [0, 1, 0, 0], sensitive_features=["a", "a", "b", "b"])
        >>> model_card(found).splitlines()[0]
        '## Factors'
    """
    if isinstance(found, Tradeoff):
        first = found.audits[found.settings["baseline"]]
        analyses = _of_models(found, first)
    else:
        first = found
        analyses = _of_groups(found)
    sections = (
        Section("Factors", (_factors(first),)),
        Section("Metrics", tuple(notes(_metrics(first)))),
        Section("Evaluation data", (_data(first),)),
        Section("Quantitative analyses", tuple(analyses)),
        Section("Caveats", tuple(notes([*found.warnings, *limits(first)]))),
    )
    text = markdown_text(Report("Model card", "", sections, {}))
    return text[text.index("## ") :]


def _factors(audit: "Audit") -> str:
    features = [named(name) for name in audit.by_group.index.names]
    sizes = audit.by_group["n"][audit.by_group["n"] > 0]
    text = f"Groups are the values of {listed(features)}"
    if len(features) > 1:
        text += ", in combination"
    text += f": {counted(len(sizes), 'group')}"
    return f"{text} of {sizes.min():,} to {sizes.max():,} rows." if len(sizes) else f"{text}."


def _metrics(audit: "Audit") -> list[str]:
    figures = {metric: figure_of(metric, audit.settings) for metric in _headline(audit)}
    said = [
        f"{figure.title}: the share of the {figure.counts} that {figure.did}."
        if figure.is_share
        else f"{figure.title}: {figure.counts}."
        for figure in figures.values()
    ]
    confidence = 100 * audit.settings["confidence"]
    methods = select(audit.intervals, group=OVERALL)["method"][list(figures)]
    how = "; ".join(
        f"{method} for {', '.join(map(str, names.index))}"
        for method, names in methods.groupby(methods, sort=False)
    )
    return [*said, f"Intervals at {confidence:g}%: {how}."]


def _data(audit: "Audit") -> str:
    settings = audit.settings
    text = counted(settings["n_rows"], "row")
    if settings["n_unknown"]:
        text += f", of which {settings['n_unknown']:,} lack a sensitive feature"
    if "base_rate" in audit.overall:
        text += (
            f"; {number(audit.overall['base_rate'])} of them have the favourable label, "
            f"{named(settings['favourable'])}"
        )
    return (
        f"{text}. SHA-256 of the rows as read: {settings['data_sha256']}. For the author to add, "
        "as the rows do not tell it: where they are from, when and how they were labelled, and "
        "whether the model has seen them."
    )


def _of_groups(audit: "Audit") -> list[Item]:
    metrics = _headline(audit)
    columns = {metric: _with_bounds(audit, metric) for metric in metrics}
    table = _groups_table(audit, columns, metrics[0], "Figures of each group, with intervals")
    return [table, *notes([*worst_sentences(audit), *gap_sentences(audit)])]


def _of_models(found: "Tradeoff", baseline: "Audit") -> list[Item]:
    metric = _headline(baseline)[0]
    arms = list(found.audits)[:_MOST_ARMS]
    columns = {arm: _with_bounds(found.audits[arm], metric) for arm in arms}
    names = [name for name in _OF_ARMS if name in found.table]
    return [
        Table(found.table[names], "Figures of each model."),
        *notes(tradeoff_in_short(found)),
        _groups_table(baseline, columns, metric, f"{metric} of each group, with intervals"),
    ]


def _groups_table(
    audit: "Audit", columns: dict[str, "pd.Series[Any]"], metric: str, caption: str
) -> Table:
    values = groups_with(audit.intervals, metric)["value"].sort_values()
    groups = list(groups_with(audit.intervals, metric).index)
    left_out = len(groups) - _MOST_GROUPS
    if left_out > 0:
        ends = set(values.index[: _MOST_GROUPS // 2]) | set(values.index[-_MOST_GROUPS // 2 :])
        groups = [group for group in groups if group in ends]
        caption += f"; of {len(values):,} groups those with the lowest and highest {metric}"
    rows = [OVERALL, *groups]
    sizes = audit.intervals["n"].groupby(level="group").max()
    frame = pd.DataFrame({"n": sizes[rows].astype(int)} | {k: c[rows] for k, c in columns.items()})
    return Table(frame.rename_axis("group"), f"{caption}.")


def _with_bounds(audit: "Audit", metric: str) -> "pd.Series[Any]":
    """Return one figure of all rows and of each group as "0.814 (0.806 to 0.821)"."""
    rows = select(audit.intervals, metric=metric)
    texts = [
        number(value) if isnan(low) else f"{number(value)} ({number(low)} to {number(high)})"
        for value, low, high in rows[["value", "low", "high"]].itertuples(index=False)
    ]
    return pd.Series(texts, index=rows.index)


def _headline(audit: "Audit") -> Sequence[str]:
    known = metrics_of(audit)
    return [metric for metric in _HEADLINE if metric in known]
