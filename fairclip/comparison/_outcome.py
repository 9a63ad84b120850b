"""What a finished task leaves in the run folder, each file whole or not there at all."""

import gzip
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairclip.comparison._telemetry import Telemetry
from fairclip.metrics import neutralise_formulas

# What is reported of each group.
RATES = ("base_rate", "accuracy", "balanced_accuracy", "selection_rate", "tpr", "fpr", "ece")

Figures: TypeAlias = dict[str, float | str | int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm with one seed.

    Attributes:
        arm: Its name.
        seed: Its seed.
        validation: Metrics of the validation part.
        test: Metrics of the test part.
        matched: Those with as many rows of it predicted 1 as have the label 1; none without scores.
        by_group: Rows and rates of each group of the test part, one record each.
        validation_by_group: Likewise of the validation part.
        telemetry: How often the stages acted, and on whom.
        warnings: What training had to say.
    """

    arm: str
    seed: int
    validation: Figures
    test: Figures
    matched: Figures
    by_group: list[Figures]
    validation_by_group: list[Figures]
    telemetry: Telemetry
    warnings: list[str]


@dataclass(frozen=True)
class TaskFiles:
    """The files of one arm with one seed in a run folder.

    Attributes:
        predictions: The test part: y_true, y_pred, y_score where the arm has scores, and the
            sensitive columns.
        scores: Of all rows, for the arms that take them over.
        inputs: Of all rows, for every arm of the seed.
        trace: One row for each training step.
        outcome: The record; it is written last, and where it is the task is finished.
    """

    predictions: Path
    scores: Path
    inputs: Path
    trace: Path
    outcome: Path

    @classmethod
    def of(cls, folder: Path, arm: str, seed: int) -> "TaskFiles":
        """Return the files of one task in a run folder."""
        stem = f"{arm.replace(':', '-')}__seed{seed}"  # Windows has no colon in names
        return cls(
            folder / "predictions" / f"{stem}.csv.gz",
            folder / "tasks" / f"{stem}.npy",
            folder / "tasks" / f"inputs__seed{seed}.npy",
            folder / "tasks" / f"{stem}.csv.gz",
            folder / "tasks" / f"{stem}.json",
        )

    def read(self) -> Outcome:
        """Read the record."""
        values = json.loads(self.outcome.read_bytes())
        return Outcome(**{**values, "telemetry": Telemetry(**values["telemetry"])})

    def write(self, record: Outcome) -> None:
        """Write the record."""
        write_whole(self.outcome, json.dumps(asdict(record)).encode())


def write_array(path: Path, values: NDArray[np.floating]) -> None:
    """Write ``values`` to the last bit."""
    content = io.BytesIO()
    np.save(content, values)
    write_whole(path, content.getvalue())


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write ``frame`` as CSV, or CSV.gz; equal tables make equal bytes."""
    text = neutralise_formulas(frame).to_csv(index=False, lineterminator="\n").encode()
    write_whole(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name first, so that nobody sees it half-written."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
