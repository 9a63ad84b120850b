"""From the outcomes of all tasks to one row for each arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fairclip.comparison._outcome import RATES, Outcome
from fairclip.comparison._select import BASELINE
from fairclip.metrics import over_seeds

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "auc",
    "worst_group_accuracy",
    "worst_cell_accuracy",
    "equalized_odds_difference",
    "demographic_parity_difference",
)

# An equalized odds difference is never shown without the balanced accuracy.
HEADLINES = (
    "accuracy",
    "balanced_accuracy",
    "worst_cell_accuracy",
    "equalized_odds_difference",
)


@dataclass(frozen=True)
class Results:
    """The tables behind the report.

    Attributes:
        tradeoff: One row for each arm; for each metric M of the test part the columns M_mean,
            M_low, M_high and against the baseline M_change, M_change_low, M_change_high. Of the
            cell that is the worst in most seeds the name, its mean rows and the number of seeds.
        validation: The same of the validation part, the M_mean alone.
        by_group: One row for each arm and group; the same columns for the rates of the group.
        telemetry: One row for each arm that keeps a trace and each group of its cap.
        matched: As `tradeoff`, with as many rows of the test part predicted 1 as have the label 1.
        runs: One row for each arm, seed and part (validation, test): the metrics.
        runs_by_group: One row for each arm, seed, part and group: its rows and rates.
        warnings: What training had to say.
    """

    tradeoff: pd.DataFrame
    validation: pd.DataFrame
    by_group: pd.DataFrame
    telemetry: pd.DataFrame
    matched: pd.DataFrame
    runs: pd.DataFrame
    runs_by_group: pd.DataFrame
    warnings: tuple[str, ...]


def format_change(row: Mapping[Any, Any], metric: str) -> str:
    """Return a change against the baseline with half its interval; one seed has no interval.

    Args:
        row: Of ``Results.tradeoff`` or ``Results.by_group``, by column.
        metric: The M of its columns.
    """
    change, low, high = (row[f"{metric}_change{end}"] for end in ("", "_low", "_high"))
    half = max(high - change, change - low)  # the range of a metric can cut one of them
    if np.isnan(change):
        return "n/a"
    return f"{change:+z.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}")


def format_worst_cell(row: Mapping[Any, Any], seeds: int) -> str:
    """Return the worst cell's name, its rows and in how many of the ``seeds`` it is the worst.

    Args:
        row: Of ``Results.tradeoff``.
        seeds: Of the run.
    """
    return (
        f"{row['worst_cell']}, n = {row['worst_cell_n']:,.0f} in the mean, "
        f"worst in {row['worst_cell_seeds']} of {seeds} seeds"
    )


def collect(outcomes: Sequence[Outcome], test_over_train: float) -> Results:
    """Average over the seeds; arms and groups keep the order in which they come."""
    return Results(
        _tradeoff(outcomes, test_over_train),
        _validation(outcomes),
        _by_group(outcomes, test_over_train),
        _telemetry(outcomes),
        _matched(outcomes, test_over_train),
        pd.DataFrame(
            {"arm": o.arm, "seed": o.seed, "part": part, **figures}
            for o in outcomes
            for part, figures in (("validation", o.validation), ("test", o.test))
        ),
        pd.DataFrame(
            {"arm": o.arm, "seed": o.seed, "part": part, **rates}
            for o in outcomes
            for part, records in (("validation", o.validation_by_group), ("test", o.by_group))
            for rates in records
        ),
        tuple(sorted({message for o in outcomes for message in o.warnings})),
    )


def _tradeoff(outcomes: Sequence[Outcome], test_over_train: float) -> pd.DataFrame:
    runs = pd.DataFrame(
        {
            **o.test,
            "arm": o.arm,
            "seed": o.seed,
            "cap_active": o.telemetry.cap_active,
            "clip_active": o.telemetry.clip_active,
        }
        for o in outcomes
    )
    table = _means(runs, METRICS, test_over_train)
    by_arm = runs.groupby("arm")
    table["worst_cell"] = by_arm["worst_cell"].agg(lambda names: names.mode()[0])
    there = runs[runs["worst_cell"] == runs["arm"].map(table["worst_cell"])].groupby("arm")
    table["worst_cell_n"] = there["worst_cell_n"].mean()
    table["worst_cell_seeds"] = there.size()
    table["selection_rate_mean"] = by_arm["selection_rate"].mean()
    table[["cap_active", "clip_active"]] = by_arm[["cap_active", "clip_active"]].mean()
    return table.reset_index()


def _matched(outcomes: Sequence[Outcome], test_over_train: float) -> pd.DataFrame:
    runs = pd.DataFrame({**o.matched, "arm": o.arm, "seed": o.seed} for o in outcomes)
    table = _means(runs, METRICS, test_over_train)
    table["selection_rate_mean"] = runs.groupby("arm")["selection_rate"].mean()
    return table.reset_index()


def _validation(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    runs = pd.DataFrame({**o.validation, "arm": o.arm} for o in outcomes)
    means = runs.groupby("arm", sort=False)[list(METRICS)].mean().round(12)
    return means.add_suffix("_mean").reset_index()


def _by_group(outcomes: Sequence[Outcome], test_over_train: float) -> pd.DataFrame:
    runs = pd.DataFrame(
        {**rates, "arm": o.arm, "seed": o.seed} for o in outcomes for rates in o.by_group
    )
    tables = []
    for group, rows in runs.groupby("group"):
        table = _means(rows, RATES, test_over_train)
        table.insert(0, "group", group)
        table.insert(1, "n", rows.groupby("arm")["n"].mean())
        tables.append(table)
    arms = tables[0].index
    stacked = pd.concat(tables)
    return stacked.sort_index(key=arms.get_indexer, kind="stable").reset_index()


def _means(runs: pd.DataFrame, metrics: Sequence[str], test_over_train: float) -> pd.DataFrame:
    table = over_seeds(
        runs[["arm", "seed", *metrics]], baseline=BASELINE, test_over_train=test_over_train
    )
    # Differences of equal sums of shares can be off by the last bit; + 0.0 turns -0.0 into 0.0.
    return table.round(12) + 0.0


def _telemetry(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    runs = pd.DataFrame({**group, "arm": o.arm} for o in outcomes for group in o.telemetry.by_group)
    return runs.groupby(["arm", "group"], sort=False).mean().reset_index()
