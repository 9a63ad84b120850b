"""For each setting the arm that a family would use, who gained and who lost, in sentences."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fairclip.comparison import format_change
from fairclip.metrics import flag_levelling_down, format_number
from fairclip.study._families import BASELINE, FAMILIES, OURS
from fairclip.study._fronts import accuracy_gained
from fairclip.study._record import SHOWN, Record
from fairclip.study._views import View

# A gap that closes by less than this is not looked at.
_CLOSED = 0.01
_BLIND_ARMS = [arm for family in FAMILIES if family.group_blind for arm in family.arms]


def choose_arm(
    validation: pd.DataFrame, arms: Sequence[str], view: View, least_accuracy: float = 0.0
) -> str | None:
    """Return the arm with the best figure of those that may be named; the first of equals.

    Args:
        validation: Means of the validation part, indexed by arm.
        arms: Of the family; the baseline is always among them, and comes first.
        view: The figure, and which arms may be named.
        least_accuracy: What the arm needs beside that.
    """
    own = validation[validation.index.isin([BASELINE, *arms])]
    allowed = own[view.eligible(own) & (own["accuracy"] >= least_accuracy)]
    if allowed.empty:
        return None
    order = [arm for arm in (BASELINE, *arms) if arm in allowed.index]
    return str((view.sign * allowed.loc[order, view.metric]).idxmax())


def chosen_table(record: Record, view: View) -> pd.DataFrame:
    """Return the chosen arm of every family with its figures on the test part.

    The last column is of all chosen points of the family: the accuracy that the area leaves out.
    """
    validation = record.means_of("validation")
    gained = accuracy_gained(record.fronts[view], record.points)
    chosen = {f.name: choose_arm(validation, f.arms, view) or BASELINE for f in record.families}
    rows = []
    for name, arm in {"none": BASELINE, **chosen}.items():
        figures = _row(record.test, arm)
        row: dict[str, object] = {"family": f"{name}{record.few_arms(name)}", "arm": arm}
        for metric in SHOWN:
            word = metric.replace("_", " ")
            row[word] = figures[f"{metric}_mean"]
            row[f"{word}: change"] = "–" if arm == BASELINE else format_change(figures, metric)
        row["accuracy gained beside the area"] = gained.get(name, 0.0)
        rows.append(row)
    return pd.DataFrame(rows).set_index("family")


def headlines(record: Record, view: View) -> list[str]:
    """Return what the chosen arm of each of our families changes, and for whom.

    Of a rival only whether its chosen arm levels down.
    """
    validation = record.means_of("validation")
    sentences = []
    for family in record.families:
        arm = choose_arm(validation, family.arms, view) or BASELINE
        if family.name in OURS:
            sentences.append(_headline(record, family.name, arm, view))
        sentences += [f"{family.name}, {arm}: {flag}" for flag in levelled_down(record, arm)]
    return sentences


def _headline(record: Record, family: str, arm: str, view: View) -> str:
    if arm == BASELINE:
        return f"{family}: {BASELINE}; no arm of it is better on validation."
    parts = [f"{_changes(record, arm)}.", _cells(record, arm), _blind(record, arm, view)]
    return f"{family}, {arm}: {' '.join(parts)}"


def cells_table(record: Record, arms: Sequence[str]) -> pd.DataFrame:
    """Return the recall of each cell with these arms; that of (group, y=0) is 1 - FPR."""
    return pd.DataFrame({arm: _recalls(record, arm) for arm in arms}).rename_axis("cell")


def levelled_down(record: Record, arm: str) -> list[str]:
    """Return a sentence for each label whose gap closed by lowering the better group."""
    flags = []
    before, after = _recalls(record, BASELINE), _recalls(record, arm)
    highs = _recalls(record, arm, "change_high")
    for label in (1, 0):
        of_label = before.index.str.endswith(f", y={label}")
        old, new = before[of_label], after[of_label]
        if (old.max() - old.min()) - (new.max() - new.min()) > _CLOSED:
            name = f"the recall of y={label}"
            flags += flag_levelling_down(old, new, name, change_high=highs[of_label])
    return flags


def _row(table: pd.DataFrame, arm: str) -> dict[str, Any]:
    return {str(name): value for name, value in table.loc[[arm]].to_dict("records")[0].items()}


def _recalls(record: Record, arm: str, which: str = "mean") -> "pd.Series[float]":
    means = {
        name.removesuffix(f"_{which}"): value
        for name, value in _row(record.cells, arm).items()
        if name.endswith(f"_{which}")
    }
    return pd.Series(means, dtype=float)


def _changes(record: Record, arm: str) -> str:
    figures = _row(record.test, arm)
    return ", ".join(f"{m.replace('_', ' ')} {format_change(figures, m)}" for m in SHOWN)


def _cells(record: Record, arm: str) -> str:
    """Return the cells whose recall rose and fell most."""
    row = _row(record.cells, arm)
    changes = _recalls(record, arm, "change").dropna()
    if changes.empty:
        return "No cell has rows in every seed."
    most, least = str(changes.idxmax()), str(changes.idxmin())
    gained = f"gained most: {most}, recall {format_change(row, most)}"
    lost = f"lost most: {least}, recall {format_change(row, least)}"
    return (
        f"Cell that {gained if changes[most] > 0 else 'gained: none'}; "
        f"{lost if changes[least] < 0 else 'lost: none'}."
    )


def _blind(record: Record, arm: str, view: View) -> str:
    """Return what the best group-blind arm gets that keeps as much accuracy on validation."""
    validation = record.means_of("validation")
    rival = choose_arm(validation, _BLIND_ARMS, view, _row(validation, arm)["accuracy"])
    if rival is None:
        return "No group-blind arm keeps as much accuracy on the validation part."
    figures, own = _row(record.test, rival), _row(record.test, arm)
    mean = f"{view.metric}_mean"
    return (
        f"The best group-blind arm that is at least as accurate on the validation part, {rival}, "
        f"has {view.metric.replace('_', ' ')} {format_number(figures[mean])} at accuracy "
        f"{format_number(figures['accuracy_mean'])}; {arm} has {format_number(own[mean])} at "
        f"{format_number(own['accuracy_mean'])}."
    )
