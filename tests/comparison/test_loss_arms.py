"""Arms that change the loss, on real rows: each narrows what its rule is about."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip.comparison import Settings
from fairclip.comparison._fit import Trainer, to_scores
from fairclip.comparison._loss_arms import FairBatchArm, FairGradArm, FairretArm
from fairclip.comparison._source import open_source
from fairclip.comparison._split import split, to_inputs
from fairclip.comparison._start import Start
from fairclip.comparison._table import make_table
from fairclip.datasets import load_adult
from fairclip.training import FairBatchStep, FairGradStep, FairretStep, Step, WeightedStep

Floats = NDArray[np.float64]
LossArm = FairBatchArm | FairGradArm | FairretArm


@dataclass
class Rates:
    """Of the training part: by label and group, ``(2, K)``."""

    losses: Floats
    accuracies: Floats
    scores: Floats


class Bench:
    """Part of Adult, as an arm sees it."""

    def __init__(self, n: int = 8000) -> None:
        adult = load_adult()
        sex = adult.sensitive_features["sex"]
        frame = pd.concat([adult.X.drop(columns=["sex", "race"]), sex, adult.y], axis=1).head(n)
        options = {"target": "income", "sensitive": "sex", "batch_size": 100, "epochs": 5}
        source, self.settings = open_source(Settings.of(options), frame)
        self.table = make_table(source, self.settings)
        self.rows = split(self.table, 0).train
        self.inputs = to_inputs(self.table.features, self.rows)
        self.trainer = Trainer(self.settings, 0, self.table.cells[self.rows])

    def start(self) -> Start:
        model = self.trainer.new_model(self.inputs.shape[1])
        return Start.of(model, self.table, self.rows, self.settings, np.nan, 0)

    def train(self, make: Callable[[Start], Step]) -> Rates:
        start = self.start()
        targets = torch.from_numpy(self.table.y[self.rows]).float()
        cells = torch.from_numpy(start.codes["cells"])
        self.trainer.train(start.model, self.inputs[self.rows], targets, cells, make(start))
        scores, y = to_scores(start.model, self.inputs[self.rows]), self.table.y[self.rows]
        losses = -np.log(np.where(y == 1, scores, 1 - scores))
        return Rates(*map(self._by_cell, (losses, (scores >= 0.5) == y, scores)))

    def _by_cell(self, values: Floats) -> Floats:
        y, groups = self.table.y[self.rows], self.table.groups[self.rows]
        return np.array(
            [[values[(y == label) & (groups == k)].mean() for k in (0, 1)] for label in (0, 1)]
        )


@cache
def bench() -> Bench:
    return Bench()


@cache
def unclipped() -> Rates:
    return bench().train(lambda start: WeightedStep(torch.ones(4)))


def gap(rates: Floats) -> float:
    """Return the largest distance of groups within a label."""
    return float(np.ptp(rates, axis=1).max())


def test_fairbatch_narrows_the_losses() -> None:
    weak, strong = (bench().train(FairBatchArm("", a).step).losses for a in (0.01, 0.03))
    assert gap(weak) < 0.8 * gap(unclipped().losses)
    assert gap(strong) < 0.9 * gap(weak)


def test_fairgrad_narrows_the_accuracies() -> None:
    accuracies = bench().train(FairGradArm("", 0.001).step).accuracies
    assert gap(accuracies) < 0.9 * gap(unclipped().accuracies)


def test_fairret_narrows_the_rates() -> None:
    weak, strong = (bench().train(FairretArm("", s).step).scores for s in (0.01, 0.1))
    assert gap(weak) < 0.95 * gap(unclipped().scores)
    assert gap(strong) < 0.5 * gap(weak)


@pytest.mark.parametrize(
    ("arm", "make"),
    [
        (FairBatchArm("", 0.3), FairBatchStep),
        (FairGradArm("", 0.3), FairGradStep),
        (FairretArm("", 0.3), FairretStep),
    ],
)
def test_arms_hand_on_their_dial_and_the_cells(
    arm: LossArm, make: Callable[[Tensor, Tensor, float], Step]
) -> None:
    start = bench().start()
    cells, labels = (torch.from_numpy(start.codes[c]) for c in ("cells", "labels"))
    gradients = []
    for step in (arm.step(start), make(cells, labels, 0.3)):
        model = bench().start().model
        for _ in range(2):  # an epoch each
            model.zero_grad()
            step(model, bench().inputs[bench().rows], labels.float(), cells, row_losses)
        gradients.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *gradients))
    assert arm.codes == "cells"
    assert not arm.group_blind


def row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")
