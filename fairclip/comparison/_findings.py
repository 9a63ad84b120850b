"""What the figures of the test part say, in sentences; none of them is a judgement."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from fairclip.comparison._arms import BASELINE, Arm, FairArm
from fairclip.comparison._results import Results
from fairclip.metrics import (
    flag_capped_less_accurate,
    flag_idle_cap,
    flag_levelling_down,
    flag_trivial,
)

# Arms that lose more accuracy than this are not picked as the best of their kind.
MAX_LOSS = 0.02


def capped_arms(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the arms with a cap."""
    return [arm.name for arm in arms if isinstance(arm, FairArm) and not arm.group_blind]


def blind_arms(arms: Sequence[Arm]) -> list[str]:
    """Return the names of the group-blind rivals; the baseline is not one."""
    return [arm.name for arm in arms if arm.group_blind and arm.name != BASELINE]


def headlines(results: Results, arms: Sequence[Arm]) -> list[str]:
    """Return the best capped arm beside the best group-blind one, and what the cap cost and did."""
    table = results.tradeoff.set_index("arm")
    names = capped_arms(arms)
    capped, blind = _best(table, names), _best(table, blind_arms(arms))
    active, clipped = table.loc[names, "cap_active"], table["clip_active"]["clip_norm"]
    return [
        f"Highest worst-cell accuracy of the arms within {MAX_LOSS * 100:g} points of the "
        f"accuracy of {BASELINE} ({_levels(table, BASELINE)}): with a cap {capped} "
        f"({_levels(table, capped)}), group-blind {blind} ({_levels(table, blind)}).",
        f"Against {BASELINE}, {capped} changed accuracy by {_change(table, capped, 'accuracy')}, "
        f"worst-cell accuracy by {_change(table, capped, 'worst_cell_accuracy')} and the equalized "
        f"odds difference by {_change(table, capped, 'equalized_odds_difference')}.",
        f"Every cap changed a contribution in at least {active.min():.0%} of the steps; the clip "
        f"of clip_norm acted in {clipped:.0%}.",
    ]


def _best(table: pd.DataFrame, names: list[str]) -> str:
    accuracy = table["accuracy_mean"]
    near = [name for name in names if accuracy[name] >= accuracy[BASELINE] - MAX_LOSS]
    return str(table.loc[near or names, "worst_cell_accuracy_mean"].idxmax())


def _levels(table: pd.DataFrame, arm: str) -> str:
    row = table.loc[arm]
    return f"{row['worst_cell_accuracy_mean']:.3f} at accuracy {row['accuracy_mean']:.3f}"


def _change(table: pd.DataFrame, arm: str, metric: str) -> str:
    row = table.loc[arm]
    half = (row[f"{metric}_change_high"] - row[f"{metric}_change_low"]) / 2
    return f"{row[f'{metric}_change']:+.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}")


def no_help(results: Results, arms: Sequence[Arm], base_rate: float) -> pd.DataFrame:
    """Return one row for each thing to know about a capped arm before using it."""
    notes = [
        (arm, note)
        for arm in capped_arms(arms)
        for note in _notes(results, arm, blind_arms(arms), base_rate)
    ]
    return pd.DataFrame(notes, columns=["arm", "what the figures say"])


def _notes(results: Results, arm: str, blind: list[str], base_rate: float) -> Iterator[str]:
    table = results.tradeoff.set_index("arm")
    row = table.loc[arm].to_dict()
    if not row["worst_cell_accuracy_change_low"] > 0:
        change = _change(table, arm, "worst_cell_accuracy")
        yield f"No gain in the worst cell that stands out from the seeds: {change}."
    accuracy, worst = table["accuracy_mean"], table["worst_cell_accuracy_mean"]
    as_good = [b for b in blind if accuracy[b] >= accuracy[arm] and worst[b] >= worst[arm]]
    if as_good:
        yield f"No worse in accuracy and worst cell, and group-blind: {', '.join(as_good)}."
    if row["equalized_odds_difference_change_low"] > 0:
        change = _change(table, arm, "equalized_odds_difference")
        yield f"The equalized odds difference grew: {change}."
    before, after = (_rows(results.by_group, name) for name in (BASELINE, arm))
    for rate in ("accuracy", "tpr"):
        yield from flag_levelling_down(before[f"{rate}_mean"], after[f"{rate}_mean"], rate)
    yield from flag_trivial(row["balanced_accuracy_mean"], row["selection_rate_mean"], base_rate)
    yield from flag_idle_cap(row["cap_active"])
    factors = _rows(results.telemetry, arm)["factor"]
    yield from flag_capped_less_accurate(factors, _accuracies(before))


def _rows(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    return table[table["arm"] == arm].set_index("group")


def _accuracies(by_group: pd.DataFrame) -> pd.Series:
    """Return the accuracy of each group and of each cell, by name."""
    tpr = by_group["tpr_mean"].rename(lambda group: f"{group}, y=1")
    tnr = (1 - by_group["fpr_mean"]).rename(lambda group: f"{group}, y=0")
    accuracies: pd.Series = pd.concat([by_group["accuracy_mean"], tpr, tnr])
    return accuracies
