"""From one seed to the figures of all rules on it. Shapes: N rows."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip import GroupBatchSampler
from fairclip.comparison._fit import to_scores
from fairclip.comparison._threshold import choose_cut
from fairclip.metrics import summary
from fairclip.training import train
from tests.benchmarks._idea_rule import Rule
from tests.benchmarks._idea_setting import Run

FIGURES = (
    "accuracy",
    "balanced_accuracy",
    "auc",
    "worst_cell_accuracy",
    "equalized_odds_difference",
)
# What a cut may lose in accuracy on validation; on top of a rule, always the same.
_LOSSES = (0.005, 0.01, 0.02, 0.05)
_LOSS = 0.02

Row: TypeAlias = dict[str, float | str | int]


def rows_of(run: Run, rule: Rule, strength: float) -> Iterator[Row]:
    """Train one rule and yield its figures, and those of the rules that cut its scores."""
    scores = _scores(run, rule, strength)
    if rule.at_base_rate:
        base_rate = float(run.train_targets.mean())
        yield from _figures(run, rule.name, strength, scores, base_rate)
        return
    yield from _figures(run, rule.name, strength, scores, 0.5)
    if rule.then_cut:
        yield from _figures(run, rule.then_cut, strength, scores, _cut(run, scores, _LOSS))
    if rule.name == "unclipped":
        base_rate = float(run.train_targets.mean())
        yield from _figures(run, "unclipped, cut at base rate", 0.0, scores, base_rate)
        for loss in _LOSSES:
            yield from _figures(run, "threshold", loss, scores, _cut(run, scores, loss))


def _scores(run: Run, rule: Rule, strength: float) -> NDArray[np.float64]:
    beginning = run.begin()
    step, codes = rule.make(beginning, strength)
    model, settings = beginning.start.model, run.trainer.settings
    assert settings.batch_size is not None
    train(
        model,
        run.inputs[run.rows.train],
        run.train_targets,
        torch.from_numpy(codes),
        step=step,
        loss_fn=_row_losses,
        optimizer=beginning.optimizer,
        batches=GroupBatchSampler(run.trainer.cells, settings.batch_size, seed=run.trainer.seed),
        epochs=settings.epochs,
    )
    return to_scores(model, run.inputs)


def _cut(run: Run, scores: NDArray[np.float64], max_loss: float) -> float:
    part, table = run.rows.validation, run.table
    return choose_cut(table.y[part], scores[part], table.cells[part], max_loss)


def _figures(
    run: Run, name: str, strength: float, scores: NDArray[np.float64], cut: float
) -> Iterator[Row]:
    table = run.table
    for part in ("validation", "test"):
        rows = getattr(run.rows, part)
        y_true, y_pred = table.y[rows], (scores[rows] >= cut).astype(np.int64)
        found = summary(
            y_true,
            y_pred,
            sensitive_features=table.sensitive.iloc[rows].reset_index(drop=True),
            y_score=scores[rows],
        )
        yield {
            "rule": name,
            "strength": strength,
            "part": part,
            **{figure: found[figure] for figure in FIGURES},
            "selects": int(_selects(y_true, y_pred, table.groups[rows])),
        }


def _selects(
    y_true: NDArray[np.int64], y_pred: NDArray[np.int64], groups: NDArray[np.int64]
) -> bool:
    """Return whether each group's selection rate is within half and twice its base rate."""
    return all(
        0.5 <= y_pred[groups == k].mean() / y_true[groups == k].mean() <= 2
        for k in np.unique(groups[groups >= 0])
    )


def _row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")
