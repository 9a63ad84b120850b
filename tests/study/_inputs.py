"""Finished comparisons that were never run: a table of figures in, runs and groups out."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairclip.study._record import Record
from fairclip.study._settings import Setting

BASE_RATES = {"sex=f": 0.2, "sex=m": 0.4}
ENVIRONMENT = {
    "data": {"name": "toy", "sha256": "0" * 64, "rows": 1000, "origin": "made up"},
    "versions": {"python": "3", "fairclip": "0"},
    "rivals": {"fairlearn": "0"},
    "command_line": "fairclip study --smoke",
}


def run(
    arm: str,
    accuracy: float,
    worst_cell: float,
    gap: float = 0.1,
    *,
    seed: int = 0,
    part: str = "test",
    **more: Any,
) -> dict[str, Any]:
    """Return one row of ``runs.csv``."""
    return {
        "arm": arm,
        "seed": seed,
        "part": part,
        "accuracy": accuracy,
        "balanced_accuracy": 0.8,
        "auc": 0.9,
        "selection_rate": 0.3,
        "worst_group_accuracy": worst_cell,
        "worst_cell_accuracy": worst_cell,
        "worst_cell": "sex=f, y=1",
        "equalized_odds_difference": gap,
        "demographic_parity_difference": gap,
        **more,
    }


def groups_of(runs: pd.DataFrame, **changes: Mapping[str, float]) -> pd.DataFrame:
    """Return ``runs_by_group.csv``: every rate the same, the recall of sex=f, y=1 the worst cell's.

    ``changes``: for an arm's name, other rates of the group sex=f.
    """
    rows = []
    for found in runs.to_dict("records"):
        for group, base_rate in BASE_RATES.items():
            rates = {"selection_rate": base_rate, "tpr": 0.7, "fpr": 0.1}
            if group == "sex=f":
                rates |= {"tpr": found["worst_cell_accuracy"], **changes.get(found["arm"], {})}
            keys = {key: found[key] for key in ("arm", "seed", "part")}
            rows.append(
                {
                    **keys,
                    "group": group,
                    "n": 100,
                    "base_rate": base_rate,
                    "accuracy": found["accuracy"],
                    "balanced_accuracy": 0.8,
                    **rates,
                    "ece": 0.05,
                }
            )
    return pd.DataFrame(rows)


def both_parts(rows: list[dict[str, Any]], seeds: int = 3) -> pd.DataFrame:
    """Return these rows for every seed and part."""
    return pd.DataFrame(
        {**row, "seed": seed, "part": part}
        for seed in range(seeds)
        for part in ("validation", "test")
        for row in rows
    )


def record(runs: pd.DataFrame, title: str = "Toy", *, main: bool = True, **changes: Any) -> Record:
    """Return a record of these runs."""
    setting = Setting(title.lower(), title, "A toy.", {"data": "toy"}, main)
    return Record(setting, runs, groups_of(runs, **changes), ENVIRONMENT)
