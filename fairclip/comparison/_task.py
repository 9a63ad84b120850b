"""One arm with one seed, from the table to its files. Shapes: N rows, d inputs."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip.comparison._arms import BASELINE, Arm, Start, ThresholdArm, TrainedArm
from fairclip.comparison._errors import RunError
from fairclip.comparison._outcome import Outcome, TaskFiles, write_array, write_table
from fairclip.comparison._predictions import Predictions
from fairclip.comparison._settings import Settings
from fairclip.comparison._split import split, to_inputs
from fairclip.comparison._table import Table
from fairclip.comparison._telemetry import Telemetry
from fairclip.comparison._threshold import choose_cut
from fairclip.groups import GroupBatchSampler
from fairclip.trace import Trace
from fairclip.training import FairStep, infer, make_mlp, train

# The seed of which every training step is kept.
TRACED_SEED = 0


@dataclass(frozen=True)
class Fit:
    """What training leaves.

    Attributes:
        scores: Probabilities of class 1, ``(N,)``.
        cut: Predictions are ``scores >= cut``.
        trace: What happened in each training step, where the step keeps one.
    """

    scores: NDArray[np.float64]
    cut: float = 0.5
    trace: Trace | None = None


def run_task(table: Table, settings: Settings, arm: Arm, seed: int, folder: Path) -> None:
    """Write predictions, trace and record of one arm; the baseline of the seed comes first."""
    torch.set_num_threads(1)  # the same sums, however many processes there are
    files = TaskFiles.of(folder, arm.name, seed)
    baseline = TaskFiles.of(folder, BASELINE, seed)
    rows = split(table, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(arm, ThresholdArm):
            fit = _move_cut(table, rows.validation, np.load(baseline.scores))
        else:
            is_baseline = arm.name == BASELINE
            median_norm = np.nan if is_baseline else baseline.read().telemetry.median_norm
            fit = _train(table, settings, arm, seed, rows.train, median_norm)
        validation, test = (
            Predictions.of(table, fit.scores, fit.cut, part)
            for part in (rows.validation, rows.test)
        )
        by_group = test.rates()
    write_table(files.predictions, test.to_frame())
    if arm.name == BASELINE:
        write_array(files.scores, fit.scores)
    if fit.trace is not None and seed == TRACED_SEED:
        write_table(files.trace, fit.trace.to_frame())
    files.write(
        Outcome(
            arm=arm.name,
            seed=seed,
            validation=validation.summary(),
            test=test.summary(),
            matched=test.matched(),
            by_group=by_group,
            telemetry=Telemetry() if fit.trace is None else Telemetry.of(fit.trace),
            warnings=sorted({str(warning.message) for warning in caught}),
        )
    )


def _move_cut(table: Table, validation: NDArray[np.int64], scores: NDArray[np.float64]) -> Fit:
    """Keep the scores, and choose the cut on the validation rows."""
    cut = choose_cut(table.y[validation], scores[validation], table.cells[validation])
    return Fit(scores, cut)


def _train(
    table: Table,
    settings: Settings,
    arm: TrainedArm,
    seed: int,
    rows: NDArray[np.int64],
    median_norm: float,
) -> Fit:
    inputs = to_inputs(table.features, rows)  # (N, d)
    model = make_mlp(inputs.shape[1], 1, settings.hidden, seed=seed).to(settings.device)
    start = Start.of(model, table, rows, settings, median_norm)
    step = arm.step(start)
    assert settings.batch_size is not None  # `prepare` has filled it in
    train(
        model,
        inputs[rows],
        torch.from_numpy(table.y[rows]).float(),
        torch.from_numpy(start.codes[arm.codes]),
        step=step,
        loss_fn=_row_losses,
        optimizer=torch.optim.Adam(model.parameters(), lr=settings.lr),
        batches=GroupBatchSampler(start.codes["cells"], settings.batch_size, seed=seed),
        epochs=settings.epochs,
    )
    outputs = infer(model, inputs).squeeze(1)  # (N,)
    if not bool(outputs.isfinite().all()):
        raise RunError(
            f"`{arm.name}`, seed {seed}: training diverged, its outputs are not finite; "
            "lower `lr` (--lr)."
        )
    scores = outputs.double().sigmoid().numpy()
    return Fit(scores, trace=step.clipper.trace if isinstance(step, FairStep) else None)


def _row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")
