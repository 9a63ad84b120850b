"""One arm with one seed, from the table to its files. Shapes: N rows, d inputs."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairclip.comparison._arms import Arm, TrainedArm
from fairclip.comparison._cuts import CutArm, ThresholdArm
from fairclip.comparison._errors import RunError
from fairclip.comparison._fairlearn import exponentiated_gradient, optimise_thresholds
from fairclip.comparison._fit import Fit, Trainer, to_scores
from fairclip.comparison._outcome import Outcome, TaskFiles, write_array, write_table
from fairclip.comparison._predictions import Predictions
from fairclip.comparison._rivals import ExponentiatedGradientArm, ThresholdOptimizerArm
from fairclip.comparison._select import BASELINE
from fairclip.comparison._settings import Settings
from fairclip.comparison._split import Split, split, to_inputs, to_pixels
from fairclip.comparison._start import Start
from fairclip.comparison._table import Table
from fairclip.comparison._telemetry import Telemetry
from fairclip.comparison._threshold import choose_cut
from fairclip.training import FairStep, TargetStep

# The seed of which every training step is kept.
TRACED_SEED = 0


def run_task(table: Table, settings: Settings, arm: Arm, seed: int, folder: Path) -> None:
    """Write predictions, trace and record of one arm; the baseline of the seed comes first."""
    torch.set_num_threads(1)  # the same sums, however many processes there are
    files = TaskFiles.of(folder, arm.name, seed)
    baseline = TaskFiles.of(folder, BASELINE, seed)
    rows = split(table, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = _fit(table, settings, arm, seed, rows, baseline)
        validation, test = (
            Predictions.of(table, fit, rows.validation),
            Predictions.of(table, fit, rows.test),
        )
        by_group = test.rates()
        validation_by_group = validation.rates()
    write_table(files.predictions, test.to_frame())
    if arm.name == BASELINE:
        assert fit.scores is not None  # a cut of them
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
            validation_by_group=validation_by_group,
            telemetry=Telemetry() if fit.trace is None else Telemetry.of(fit.trace),
            warnings=sorted({str(warning.message) for warning in caught}),
        )
    )


def _fit(
    table: Table, settings: Settings, arm: Arm, seed: int, rows: Split, baseline: TaskFiles
) -> Fit:
    if isinstance(arm, ThresholdArm):
        scores, part = np.load(baseline.scores), rows.validation
        return Fit.cut(scores, choose_cut(table.y[part], scores[part], table.cells[part]))
    if isinstance(arm, CutArm):
        return Fit.cut(np.load(baseline.scores), arm.cut)
    if isinstance(arm, ThresholdOptimizerArm):
        scores = np.load(baseline.scores)
        return Fit(optimise_thresholds(table.y, scores, table.groups, rows.validation, arm, seed))
    inputs = _inputs(table, settings, rows, baseline)  # (N, d)
    trainer = Trainer(settings, seed, table.cells[rows.train])
    try:
        if isinstance(arm, ExponentiatedGradientArm):
            return Fit(
                exponentiated_gradient(inputs, table.y, table.groups, rows.train, arm, trainer)
            )
        is_baseline = arm.name == BASELINE
        median_norm = np.nan if is_baseline else baseline.read().telemetry.median_norm
        return _train(table, inputs, arm, rows.train, trainer, median_norm)
    except RunError as error:
        raise RunError(f"`{arm.name}`, seed {seed}: {error}") from error


def _inputs(table: Table, settings: Settings, rows: Split, baseline: TaskFiles) -> Tensor:
    """Return the inputs of a seed, which its first task makes for all."""
    if not baseline.inputs.exists():
        scale = to_pixels if settings.model == "cnn" else to_inputs
        write_array(baseline.inputs, scale(table.features, rows.train).numpy())
    return torch.from_numpy(np.load(baseline.inputs))


def _train(
    table: Table,
    inputs: Tensor,
    arm: TrainedArm,
    rows: NDArray[np.int64],
    trainer: Trainer,
    median_norm: float,
) -> Fit:
    model = trainer.new_model(inputs.shape[1])
    start = Start.of(model, table, rows, trainer.settings, median_norm, trainer.seed)
    step = arm.step(start)
    targets = torch.from_numpy(table.y[rows]).float()
    trainer.train(model, inputs[rows], targets, torch.from_numpy(start.codes[arm.codes]), step)
    trace = step.clipper.trace if isinstance(step, FairStep | TargetStep) else None
    return Fit.cut(to_scores(model, inputs), trace=trace)
