"""What a finished task leaves in the run folder, each file whole or not there at all."""

import gzip
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from fairclip.metrics import neutralise_formulas

# What is reported of each group.
RATES = ("base_rate", "accuracy", "balanced_accuracy", "selection_rate", "tpr", "fpr")

Figures: TypeAlias = dict[str, float | str | int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm with one seed.

    Attributes:
        arm: Its name.
        seed: Its seed.
        metrics: Of the test part.
        by_group: Rows and rates of each group of the test part, one record each.
        telemetry: For each group, how the stages treated it, one record each; empty without a
            trace.
        cap_active: Share of the steps in which a cap changed a contribution; NaN without a trace.
        clip_active: Share of the steps in which the clip changed the gradient, likewise.
        median_norm: Of the gradients before any clip, likewise.
        best_cut: The cut for everyone that the validation part suggests.
        warnings: What training had to say.
    """

    arm: str
    seed: int
    metrics: Figures
    by_group: list[Figures]
    telemetry: list[Figures]
    cap_active: float
    clip_active: float
    median_norm: float
    best_cut: float
    warnings: list[str]


@dataclass(frozen=True)
class TaskFiles:
    """The files of one arm with one seed in a run folder.

    Attributes:
        predictions: The test part: y_true, y_pred, y_score and the sensitive columns.
        trace: One row for each training step.
        outcome: The record; it is written last, and where it is the task is finished.
    """

    predictions: Path
    trace: Path
    outcome: Path

    @classmethod
    def of(cls, folder: Path, arm: str, seed: int) -> "TaskFiles":
        """Return the files of one task in a run folder."""
        stem = f"{arm}__seed{seed}"
        return cls(
            folder / "predictions" / f"{stem}.csv.gz",
            folder / "tasks" / f"{stem}.csv.gz",
            folder / "tasks" / f"{stem}.json",
        )

    def read(self) -> Outcome:
        """Read the record."""
        return Outcome(**json.loads(self.outcome.read_bytes()))

    def write(self, record: Outcome) -> None:
        """Write the record."""
        write_whole(self.outcome, json.dumps(asdict(record)).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name first, so that nobody sees it half-written."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write ``frame`` as compressed CSV; equal tables make equal bytes."""
    text = neutralise_formulas(frame).to_csv(index=False, lineterminator="\n")
    write_whole(path, gzip.compress(text.encode(), mtime=0))
