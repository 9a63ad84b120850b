"""What the figures of the test part say, in sentences; none of them is a judgement."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fairclip.comparison._arms import Arm, CapArm, FittedOnValidation
from fairclip.comparison._caps import FairArm
from fairclip.comparison._results import HEADLINES, Results, format_change
from fairclip.comparison._rivals import ThresholdOptimizerArm
from fairclip.comparison._select import BASELINE, Selection
from fairclip.metrics import (
    flag_capped_less_accurate,
    flag_idle_cap,
    flag_levelling_down,
    flag_trivial,
    format_number,
)

# What an arm that the sentences name may lose of the baseline's accuracy.
_MAX_LOSS = 0.02
# A gap that closes by less than this is not looked at.
_CLOSED = 0.01


def capped_arms(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the arms with a cap."""
    return [arm.name for arm in arms if isinstance(arm, CapArm) and not arm.group_blind]


def balances_labels(arm: Arm) -> bool:
    """Say whether the factors of an arm's cap are those of its labels too, in every step."""
    return isinstance(arm, FairArm) and arm.cap.label_balance > 0


def blind_arms(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the group-blind rivals; the baseline is not one."""
    return [arm.name for arm in arms if arm.group_blind and arm.name != BASELINE]


def arms_told_groups(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the arms that need the group of a row to predict."""
    return [arm.name for arm in arms if isinstance(arm, ThresholdOptimizerArm)]


def headlines(results: Results, arms: Sequence[Arm]) -> list[str]:
    """Return what the chosen arm of each kind gains and costs."""
    table = results.tradeoff.set_index("arm")
    rows = table.to_dict("index")
    capped, blind, told = capped_arms(arms), blind_arms(arms), arms_told_groups(arms)
    kinds = {
        "With a cap": capped,
        "With the groups in another way": [
            arm.name for arm in arms if arm.name not in {BASELINE, *capped, *blind, *told}
        ],
        "Group-blind": blind,
    }
    kinds["Told the groups to predict"] = told
    chosen = {kind: _choose(results.validation, names) for kind, names in kinds.items() if names}
    return [
        "Of each kind the arm is named that has the highest worst-cell accuracy on the validation "
        f"parts, at most {_MAX_LOSS * 100:g} points of accuracy below {BASELINE} there; the "
        f"changes against {BASELINE} are those on the test parts.",
        *(
            f"{kind}: no arm keeps the accuracy."
            if arm is None
            else f"{kind}, {arm}: {_changes(rows[arm])}."
            for kind, arm in chosen.items()
        ),
    ]


def selected(
    results: Results, arms: Sequence[Arm], select: str, base_rate: float
) -> tuple[str | None, str]:
    """Return the arm that ``select`` asks for, and what to say of it.

    Args:
        results: The figures.
        arms: All of them.
        select: As in the settings, not empty.
        base_rate: Share of class 1.
    """
    selection = Selection.parse(select)
    arm = selection.choose(_metric_means(results.validation))
    on = f"on the validation parts, among all {len(arms)} arms including {BASELINE}"
    if arm is None:
        return None, f'No arm satisfies "{select}" {on}.'
    row = results.tradeoff.set_index("arm").to_dict("index")[arm]
    metrics = dict.fromkeys((*HEADLINES, *selection.metrics))
    figures = ", ".join(_figure(row, metric) for metric in metrics)
    sentence = f'Chosen by "{select}" {on}: {arm}. On the test parts: {figures}.'
    test = _metric_means(results.tradeoff)
    missed = [bound.text for bound in selection.constraints if not bound.holds(test)[arm]]
    if missed:
        sentence += f" There it misses {', '.join(missed)}."
    if arm in arms_told_groups(arms):
        sentence += " It needs the group of a row to predict."
    if any(other.name == arm and isinstance(other, FittedOnValidation) for other in arms):
        sentence += " Its cuts were fitted on the validation parts, where its figures flatter it."
    trivial = flag_trivial(row["balanced_accuracy_mean"], row["selection_rate_mean"], base_rate)
    return arm, " ".join([sentence, *trivial])


def _metric_means(table: pd.DataFrame) -> pd.DataFrame:
    means = table.set_index("arm").filter(regex="_mean$")
    return means.rename(columns=lambda name: name.removesuffix("_mean"))


def _figure(row: Mapping[Any, Any], metric: str) -> str:
    mean, low, high = (format_number(row[f"{metric}_{end}"]) for end in ("mean", "low", "high"))
    interval = "" if np.isnan(row[f"{metric}_low"]) else f" [{low}, {high}]"
    cell = f" ({row['worst_cell']}, n = {row['worst_cell_n']:,.0f})"
    return (
        f"{metric.replace('_', ' ')} {mean}{interval}"
        f"{cell if metric == 'worst_cell_accuracy' else ''}"
    )


def _changes(row: Mapping[Any, Any]) -> str:
    cell = f" ({row['worst_cell']}, n = {row['worst_cell_n']:,.0f})"
    return ", ".join(
        f"{metric.replace('_', ' ')} {format_change(row, metric)}"
        + (cell if metric == "worst_cell_accuracy" else "")
        for metric in HEADLINES
    )


def _choose(validation: pd.DataFrame, names: list[str]) -> str | None:
    """Return the arm with the best worst cell of those that keep the accuracy, None without one."""
    table = validation.set_index("arm")
    accuracy = table["accuracy_mean"]
    near = [name for name in names if accuracy[name] >= accuracy[BASELINE] - _MAX_LOSS]
    return str(table.loc[near, "worst_cell_accuracy_mean"].idxmax()) if near else None


def no_help(results: Results, arms: Sequence[Arm], base_rate: float) -> pd.DataFrame:
    """Return one row for each thing to know about a capped arm before using it."""
    notes = [
        (arm.name, note)
        for arm in arms
        if arm.name in capped_arms(arms)
        for note in _notes(results, arm, blind_arms(arms), base_rate)
    ]
    return pd.DataFrame(notes, columns=["arm", "what the figures say"])


def _notes(results: Results, arm: Arm, blind: list[str], base_rate: float) -> Iterator[str]:
    table = results.tradeoff.set_index("arm")
    row = table.to_dict("index")[arm.name]
    if not row["worst_cell_accuracy_change_low"] > 0:
        change = format_change(row, "worst_cell_accuracy")
        yield f"No gain in the worst cell that stands out from the seeds: {change}."
    accuracy, worst = table["accuracy_mean"], table["worst_cell_accuracy_mean"]
    mine = accuracy[arm.name], worst[arm.name]
    as_good = [b for b in blind if accuracy[b] >= mine[0] and worst[b] >= mine[1]]
    if as_good:
        yield f"No worse in accuracy and worst cell, and group-blind: {', '.join(as_good)}."
    if row["equalized_odds_difference_change_low"] > 0:
        change = format_change(row, "equalized_odds_difference")
        yield f"The equalized odds difference grew: {change}."
    before, after = (_rows(results.by_group, name) for name in (BASELINE, arm.name))
    for rate in ("accuracy", "tpr"):
        rates = before[f"{rate}_mean"], after[f"{rate}_mean"]
        if np.ptp(rates[0]) - np.ptp(rates[1]) > _CLOSED:
            yield from flag_levelling_down(*rates, rate)
    yield from flag_trivial(row["balanced_accuracy_mean"], row["selection_rate_mean"], base_rate)
    if balances_labels(arm):
        return
    yield from flag_idle_cap(row["cap_active"])
    factors = _rows(results.telemetry, arm.name)["factor"]
    yield from flag_capped_less_accurate(factors, _accuracies(before))


def _rows(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    return table[table["arm"] == arm].set_index("group")


def _accuracies(by_group: pd.DataFrame) -> pd.Series:
    """Return the accuracy of each group and of each cell, by name."""
    tpr = by_group["tpr_mean"].rename(lambda group: f"{group}, y=1")
    tnr = (1 - by_group["fpr_mean"]).rename(lambda group: f"{group}, y=0")
    accuracies: pd.Series = pd.concat([by_group["accuracy_mean"], tpr, tnr])
    return accuracies
