"""One arm with one seed, from the table to its files. Shapes: N rows, d inputs."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip.comparison._arms import BASELINE, Arm, Codes, Start, ThresholdArm, TrainedArm
from fairclip.comparison._outcome import RATES, Figures, Outcome, TaskFiles, write_table
from fairclip.comparison._settings import Settings
from fairclip.comparison._split import Split, prepare, split
from fairclip.comparison._table import Table
from fairclip.comparison._telemetry import NO_TELEMETRY, summarise
from fairclip.comparison._threshold import choose_cut
from fairclip.groups import GroupBatchSampler, GroupEncoder
from fairclip.metrics import audit, summary
from fairclip.training import FairStep, infer, make_mlp, train

# The seed of which every training step is kept.
TRACED_SEED = 0


@dataclass(frozen=True)
class Fit:
    """What training leaves.

    Attributes:
        scores: Probabilities of class 1 for the test part.
        cut: Predictions are ``scores >= cut``.
        best_cut: What the validation part suggests as a cut for everyone.
        trace: One row for each training step, where the step keeps one.
    """

    scores: NDArray[np.float64]
    cut: float
    best_cut: float
    trace: pd.DataFrame | None = None


def run_task(
    table: Table, settings: Settings, arm: Arm, seed: int, folder: Path
) -> tuple[str, int]:
    """Write predictions, trace and record of one arm; the baseline of the seed comes first.

    Returns:
        The arm's name and the seed.
    """
    torch.set_num_threads(1)  # the same sums, however many processes there are
    files = TaskFiles.of(folder, arm.name, seed)
    baseline = TaskFiles.of(folder, BASELINE, seed)
    rows = split(table, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(arm, ThresholdArm):
            cut = baseline.read().best_cut
            # As text, because some versions of pandas round the last digit of numbers.
            scores = pd.read_csv(baseline.predictions, dtype={"y_score": str})["y_score"]
            fit = Fit(scores.to_numpy(np.float64), cut, cut)
        else:
            median_norm = np.nan if arm.name == BASELINE else baseline.read().median_norm
            fit = _train(table, settings, arm, seed, rows, median_norm)
        y_true, y_pred = table.y[rows.test], (fit.scores >= fit.cut).astype(np.int64)
        sensitive = table.sensitive.iloc[rows.test].reset_index(drop=True)
        metrics = summary(y_true, y_pred, sensitive_features=sensitive, y_score=fit.scores)
        by_group = _rates(y_true, y_pred, sensitive)
    predictions = pd.DataFrame({"y_true": y_true, "y_pred": y_pred, "y_score": fit.scores})
    write_table(files.predictions, predictions.join(sensitive))
    telemetry = NO_TELEMETRY
    if fit.trace is not None:
        telemetry = summarise(fit.trace)
        if seed == TRACED_SEED:
            write_table(files.trace, fit.trace)
    files.write(
        Outcome(
            arm=arm.name,
            seed=seed,
            metrics=metrics,
            by_group=by_group,
            telemetry=telemetry.by_group,
            cap_active=telemetry.cap_active,
            clip_active=telemetry.clip_active,
            median_norm=telemetry.median_norm,
            best_cut=fit.best_cut,
            warnings=sorted({str(warning.message) for warning in caught}),
        )
    )
    return arm.name, seed


def _train(
    table: Table, settings: Settings, arm: TrainedArm, seed: int, rows: Split, median_norm: float
) -> Fit:
    inputs = prepare(table.features, rows.train)  # (N, d)
    sensitive, y = table.sensitive.iloc[rows.train], table.y[rows.train]
    encoder = GroupEncoder(with_label=settings.groups == "cells").fit(sensitive, y)
    codes: dict[Codes, NDArray[np.int64]] = {
        "groups": encoder.transform(sensitive, y),
        "cells": table.cells[rows.train],
        "labels": y,
    }
    model = make_mlp(inputs.shape[1], 1, settings.hidden, seed=seed).to(settings.device)
    step = arm.step(Start(model, encoder, codes, median_norm))
    train(
        model,
        inputs[rows.train],
        torch.from_numpy(y).float(),
        torch.from_numpy(codes[arm.codes]),
        step=step,
        loss_fn=_row_losses,
        optimizer=torch.optim.Adam(model.parameters(), lr=settings.lr),
        batches=GroupBatchSampler(codes["cells"], settings.batch_size, seed=seed),
        epochs=settings.epochs,
    )
    scores = infer(model, inputs).squeeze(1).double().sigmoid().numpy()  # (N,)
    held_back = rows.validation
    return Fit(
        scores=scores[rows.test],
        cut=0.5,
        best_cut=choose_cut(table.y[held_back], scores[held_back], table.cells[held_back]),
        trace=step.clipper.trace.to_frame() if isinstance(step, FairStep) else None,
    )


def _rates(
    y_true: NDArray[np.int64], y_pred: NDArray[np.int64], sensitive: pd.DataFrame
) -> list[Figures]:
    found = audit(y_true, y_pred, sensitive_features=sensitive, n_boot=1)
    rates = found.by_group[found.by_group["n"] > 0]
    names = found.intervals.index.unique("group").drop("overall")
    records = rates[["n", *RATES]].set_axis(names).reset_index().to_dict("records")
    return [{str(name): value for name, value in record.items()} for record in records]


def _row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")
