"""From the outcomes of all tasks to one row for each arm."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fairclip.comparison._arms import BASELINE
from fairclip.comparison._outcome import RATES, Outcome
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


@dataclass(frozen=True)
class Results:
    """The tables behind the report.

    Attributes:
        tradeoff: One row for each arm; for each metric M the columns M_mean, M_low, M_high and
            against the baseline M_change, M_change_low, M_change_high.
        by_group: One row for each arm and group; the same columns for the rates of the group.
        telemetry: One row for each arm that keeps a trace and each group of its cap.
    """

    tradeoff: pd.DataFrame
    by_group: pd.DataFrame
    telemetry: pd.DataFrame


def collect(outcomes: Sequence[Outcome], test_over_train: float) -> Results:
    """Average over the seeds; arms and groups keep the order in which they come."""
    return Results(
        _tradeoff(outcomes, test_over_train),
        _by_group(outcomes, test_over_train),
        _telemetry(outcomes),
    )


def _tradeoff(outcomes: Sequence[Outcome], test_over_train: float) -> pd.DataFrame:
    runs = pd.DataFrame(
        {
            **o.metrics,
            "arm": o.arm,
            "seed": o.seed,
            "cap_active": o.cap_active,
            "clip_active": o.clip_active,
        }
        for o in outcomes
    )
    table = over_seeds(
        runs[["arm", "seed", *METRICS]], baseline=BASELINE, test_over_train=test_over_train
    )
    by_arm = runs.groupby("arm")
    table["worst_cell"] = by_arm["worst_cell"].agg(lambda names: names.mode()[0])
    table["selection_rate_mean"] = by_arm["selection_rate"].mean()
    table[["cap_active", "clip_active"]] = by_arm[["cap_active", "clip_active"]].mean()
    return table.reset_index()


def _by_group(outcomes: Sequence[Outcome], test_over_train: float) -> pd.DataFrame:
    runs = pd.DataFrame(
        {**rates, "arm": o.arm, "seed": o.seed} for o in outcomes for rates in o.by_group
    )
    tables = []
    for group, rows in runs.groupby("group"):
        table = over_seeds(
            rows[["arm", "seed", *RATES]], baseline=BASELINE, test_over_train=test_over_train
        )
        table.insert(0, "group", group)
        table.insert(1, "n", rows.groupby("arm")["n"].mean())
        tables.append(table)
    arms = tables[0].index
    stacked = pd.concat(tables)
    return stacked.sort_index(key=arms.get_indexer, kind="stable").reset_index()


def _telemetry(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    runs = pd.DataFrame({**group, "arm": o.arm} for o in outcomes for group in o.telemetry)
    return runs.groupby(["arm", "group"], sort=False).mean().reset_index()
