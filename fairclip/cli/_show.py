"""An audit or a comparison as a terminal shows it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fairclip.cli._console import one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from fairclip.metrics import Audit, Tradeoff

_ALL = "overall"
_MOST_GROUPS = 20
_MOST_NAMES = 10
_EXTREMES = 7  # of more groups, as many of the lowest and of the highest
# What there is room for, the most telling first.
_FIRST = {
    "binary": ("accuracy", "selection_rate", "tpr", "fpr", "auc", "balanced_accuracy", "precision"),
    "multiclass": ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "auc"),
    "regression": ("mae", "bias", "rmse", "r2", "mean_true", "mean_pred"),
}
# Rates of two labels in words: of 1,000 {whom}, so many {what}.
_WORDS = {
    "accuracy": ("rows", "are predicted right"),
    "selection_rate": ("rows", "are predicted {yes}"),
    "tpr": ("rows with the label {yes}", "are predicted {yes}"),
    "fpr": ("rows with the label {no}", "are predicted {yes}"),
}


class _Cell(NamedTuple):
    value: str
    interval: str


def show(found: "Audit | Tradeoff", console: "Console", out: Path | None) -> None:
    """Print what was found: figures by group, gaps in words, notes."""
    from fairclip.metrics import Audit

    if isinstance(found, Audit):
        _show_audit(found, console)
    else:
        _show_tradeoff(found, console)
    for note in found.warnings:
        console.print(f"\nNote: {one_line(note, 500)}")
    if out is not None:
        page = out / "report.html"
        console.print(f"\nReport: {page if page.exists() else out}", soft_wrap=True)


def _show_audit(audit: "Audit", console: "Console") -> None:
    rows: dict[Any, Any] = audit.intervals.to_dict("index")

    def cell(group: str, metric: str) -> _Cell:
        row = rows[group, metric]
        return _Cell(_number(row["value"]), _range(row["low"], row["high"]))

    _print_lead(audit, console, "Under each figure: its")
    _print_groups(audit, console, audit.intervals["value"], _figures(audit), cell)
    for name, gap in audit.gaps.iterrows():
        head = f"{name} {_number(gap['value'])} (p = {_number(gap['p'], 4)})"
        _print_item(console, head, _gap_in_words(audit, gap))
    for name, worst in audit.worst.iterrows():
        head = f"{name} {_number(worst['value'])}"
        _print_item(console, head, _worst_in_words(audit, str(name), worst))
    if "balanced_accuracy" in audit.overall:
        console.print(
            "\nA gap says nothing about the level: it closes as well by finding fewer rows of "
            "every group. Balanced accuracy on all rows: "
            f"{_number(audit.overall['balanced_accuracy'])}."
        )


def _show_tradeoff(found: "Tradeoff", console: "Console") -> None:
    baseline, *arms = found.audits
    _print_lead(found.audits[baseline], console, "Under each pair: the change, its")
    for number, arm in enumerate(arms):
        console.print("\n" * (number > 0), end="")
        _print_change(found, baseline, arm, console)


def _print_change(found: "Tradeoff", baseline: str, arm: str, console: "Console") -> None:
    before, after = found.audits[baseline], found.audits[arm]
    changes = found.changes[found.changes.index.get_level_values("arm") == arm].droplevel("arm")
    rows: dict[Any, Any] = changes.to_dict("index")

    def cell(group: str, metric: str) -> _Cell:
        row = rows[group, metric]
        pair = f"{_number(row['baseline'])} → {_number(row['candidate'])}"
        return _Cell(pair, _range(row["low"], row["high"], sign="+"))

    shown = one_line(arm, 60)
    console.print(f"{one_line(baseline, 60)} → {shown}", style="bold")
    figures = [name for name in _figures(after) if name in changes.index.unique("metric")]
    _print_groups(after, console, changes["change"], figures, cell)
    earlier: dict[Any, float] = {
        **before.gaps["value"].to_dict(),
        **before.worst["value"].to_dict(),
    }
    for name, gap in after.gaps.iterrows():
        head = f"{name} {_number(earlier[name])} → {_number(gap['value'])}"
        _print_item(console, head, f"{shown}: {_gap_in_words(after, gap)}")
    for name, worst in after.worst.iterrows():
        head = f"{name} {_number(earlier[name])} → {_number(worst['value'])}"
        _print_item(console, head, f"{shown}: {_worst_in_words(after, str(name), worst)}")
    if found.matched is not None:
        names = ("accuracy", "equalized_odds_difference")
        pairs = [" → ".join(map(_number, found.matched[name][[baseline, arm]])) for name in names]
        console.print(
            f"\nCut where both select as many rows as {one_line(baseline, 60)}: accuracy "
            f"{pairs[0]}, equalized odds difference {pairs[1]}."
        )


def _print_lead(audit: "Audit", console: "Console", what: str) -> None:
    settings = audit.settings
    n_groups = len(_groups(audit))
    parts = [f"{settings['n_rows']:,} rows in {n_groups:,} group{'s' if n_groups != 1 else ''}"]
    if settings["favourable"] is not None:
        parts.append(f"favourable label {one_line(settings['favourable'], 40)}")
    if settings["weighted"]:
        parts.append("weighted")
    console.print(f"{', '.join(parts)}. {what} {_percent(audit)} interval.\n")


def _print_groups(
    audit: "Audit",
    console: "Console",
    values: "pd.Series[float]",
    figures: Sequence[str],
    cell: Callable[[str, str], _Cell],
) -> None:
    """Print a table of the groups, with as many figures as fit."""
    from rich.table import Table
    from rich.text import Text

    first = _FIRST[audit.settings["task"]][0]
    low, high = _shown(values.xs(first, level="metric"), _groups(audit))
    groups = [_ALL, *low, *high]
    names = [one_line(group, max(console.width // 3, 12)) for group in groups]
    rows = audit.intervals["n"].xs(first, level="metric")
    columns = {name: [cell(group, name) for group in groups] for name in figures}
    shown = _that_fit(columns, console.width - max(map(len, names)) - 12)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("group")
    table.add_column("rows", justify="right")
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right", max_width=_width(columns, name))
    for i, (group, name) in enumerate(zip(groups, names, strict=True)):
        table.add_row(
            Text(name),
            _count(rows[group]),
            *(
                Text.assemble(value, "\n", (interval, "dim"))
                for value, interval in (columns[name][i] for name in shown)
            ),
        )
        if high and group == low[-1]:
            table.add_row(Text("…"))
    console.print(table)
    if n_left := len(_groups(audit)) - len(low) - len(high):
        console.print(f"Lowest and highest {first}; {n_left:,} more groups are in the report.")
    if left := [name for name in audit.overall.index if name not in shown]:
        more = f" and {len(left) - _MOST_NAMES} more" if len(left) > _MOST_NAMES else ""
        console.print(f"In the report too: {', '.join(left[:_MOST_NAMES])}{more}.")
    console.print()


def _that_fit(columns: Mapping[str, Sequence[_Cell]], width: int) -> list[str]:
    """Return the first figures that fit into the width, one at least."""
    shown: list[str] = []
    for name in columns:
        width -= _width(columns, name) + 2
        if width < 0 and shown:
            break
        shown.append(name)
    return shown


def _width(columns: Mapping[str, Sequence[_Cell]], name: str) -> int:
    texts = [*name.split("_"), *(text for cell in columns[name] for text in cell)]
    return max(map(len, texts))


def _print_item(console: "Console", head: str, text: str) -> None:
    from rich.padding import Padding

    console.print(head, style="bold")
    console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _shown(values: "pd.Series[float]", groups: list[str]) -> tuple[list[str], list[str]]:
    """Return the groups to show: all, or those with the lowest and with the highest values."""
    if len(groups) <= _MOST_GROUPS:
        return groups, []
    ordered = list(map(str, values[groups].dropna().sort_values(kind="stable").index))
    if len(ordered) <= _MOST_GROUPS:
        return ordered, []
    return ordered[:_EXTREMES], ordered[-_EXTREMES:]


def _groups(audit: "Audit") -> list[str]:
    return [group for group in audit.intervals.index.unique("group") if group != _ALL]


def _figures(audit: "Audit") -> list[str]:
    """Return the figures, those that were asked for and the most telling ones first."""
    settings, names = audit.settings, list(audit.overall.index)
    first = [name for name in (*settings["metrics"], *_FIRST[settings["task"]]) if name in names]
    return [*first, *(name for name in names if name not in first)]


def _gap_in_words(audit: "Audit", gap: "pd.Series[Any]") -> str:
    if math.isnan(gap["value"]):
        return "Undefined, for want of rows in a group, or hidden."
    rate, highest, lowest = gap["rate"], gap["highest"], gap["lowest"]
    high_name, low_name = one_line(highest, 60), one_line(lowest, 60)
    if rate not in audit.overall:
        return f"In {rate}: highest in {high_name}, lowest in {low_name}."
    value = audit.intervals["value"]
    high, low = value[highest, rate], value[lowest, rate]
    if audit.settings["task"] != "binary" or rate not in _WORDS:
        return f"The {rate} is {_number(high)} in {high_name} and {_number(low)} in {low_name}."
    no, yes = (one_line(label, 40) for label in audit.settings["labels"])
    whom, what = (words.format(no=no, yes=yes) for words in _WORDS[rate])
    return (
        f"Of 1,000 {whom}, {1000 * high:.0f} {what} in {high_name} and {1000 * low:.0f} in "
        f"{low_name}."
    )


def _worst_in_words(audit: "Audit", name: str, worst: "pd.Series[Any]") -> str:
    if math.isnan(worst["value"]):
        return "Hidden."
    what = "cell" if name == "worst_cell_accuracy" else "group"
    text = f"In {one_line(worst['name'], 80)}, of {worst['n']:,} rows"
    if math.isnan(worst["bound"]):
        return f"{text}."
    side = "below" if name.endswith("accuracy") else "above"
    return (
        f"{text}; with {_percent(audit)} confidence no {what} is {side} {_number(worst['bound'])}."
    )


def _percent(audit: "Audit") -> str:
    return f"{100 * audit.settings['confidence']:.4g} %"


def _count(n: Any) -> str:
    import pandas as pd

    return "n/a" if pd.isna(n) else f"{n:,}"


def _range(low: float, high: float, sign: str = "") -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    between = "–" if low >= 0 and not sign else " to "  # a dash beside a minus reads badly
    return f"{_number(low, sign=sign)}{between}{_number(high, sign=sign)}"


def _number(value: Any, decimals: int = 3, sign: str = "") -> str:
    """Return the number with `decimals`, and with fewer from 10 on; NaN is n/a."""
    import pandas as pd

    if pd.isna(value):
        return "n/a"
    if 0 < abs(value) < 0.5 * 10**-decimals:  # not 0
        return f"{value:{sign}.0e}"
    left = decimals - int(math.log10(max(abs(value), 1)))
    return f"{value:{sign},.{max(left, 0)}f}"
