"""The results: one row a setting and arm, kept as a CSV file."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tests.benchmarks._step_models import WORKLOADS

PATH = Path(__file__).with_name("step_cost.csv")

MEASURED_ONCE = "40"
"""The minority share at which everything is measured that does not depend on it, or hardly."""


@dataclass(frozen=True, order=True)
class Setting:
    """What arms are compared on; ``minority`` is a percentage or "balanced"."""

    device: str
    model: str
    n_groups: int
    minority: str


@dataclass(frozen=True)
class Row:
    """What a step of an arm costs; times are ratios to the plain step, with quartiles.

    ``floor`` is the floor's ratio in the same setting. ``memory`` is the ratio of the peaks of
    steps that are not checked, ``first_memory`` that of the first four, most of which are. ``note``
    says why an arm did not run. What was not measured is None.
    """

    device: str
    model: str
    n_groups: int
    minority: str
    arm: str
    batch_size: int
    plain_ms: float
    wall: float | None
    wall_q1: float | None
    wall_q3: float | None
    cpu: float | None
    floor: float | None
    memory: float | None
    first_memory: float | None
    n_turns: int
    note: str
    threads: int
    versions: str

    @property
    def setting(self) -> Setting:
        """Where it was measured."""
        return Setting(self.device, self.model, self.n_groups, self.minority)


def read(path: Path = PATH) -> list[Row]:
    """Return the rows of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Row(**{f.name: _parse(r[f.name], f.type) for f in fields(Row)})
            for r in csv.DictReader(file)
        ]


def _parse(text: str, kind: Any) -> Any:
    if kind in (str, int, float):
        return kind(text)
    return float(text) if text else None


def merge(rows: Iterable[Row], path: Path = PATH) -> None:
    """Write the rows to a file; they replace all of the same settings: arms take turns."""
    measured = list(rows)
    settings = {row.setting for row in measured}
    kept = [row for row in read(path) if row.setting not in settings]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in sorted([*kept, *measured], key=_place):
            writer.writerow({key: _format(value) for key, value in asdict(row).items()})


def _place(row: Row) -> tuple[object, ...]:
    """Sort by setting; arms stay in their order."""
    model = [*WORKLOADS].index(row.model)
    return row.device, model, row.n_groups, row.minority  # "balanced" comes last


def _format(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
