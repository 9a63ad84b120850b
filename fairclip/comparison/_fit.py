"""A network that is trained, and what any arm leaves. Shapes: N rows, n training rows, d inputs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip.comparison._errors import RunError
from fairclip.comparison._settings import Settings
from fairclip.groups import GroupBatchSampler
from fairclip.trace import Trace
from fairclip.training import Step, infer, make_cnn, make_mlp, train

_MOMENTUM = 0.9


@dataclass(frozen=True)
class Fit:
    """What training leaves.

    Attributes:
        y_pred: 0 or 1, ``(N,)``.
        scores: Probabilities of class 1, ``(N,)``; None for an arm whose predictions are no cut
            of any.
        trace: What happened in each training step, where the step keeps one.
    """

    y_pred: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    trace: Trace | None = None

    @classmethod
    def cut(
        cls, scores: NDArray[np.float64], cut: float = 0.5, trace: Trace | None = None
    ) -> "Fit":
        """Predict class 1 where the score is at least ``cut``."""
        return cls((scores >= cut).astype(np.int64), scores, trace)


@dataclass(frozen=True)
class Trainer:
    """How every network of a seed is trained: initial weights, batches and optimizer.

    Attributes:
        settings: Of the run.
        seed: Of the run.
        cells: Of the training rows, ``(n,)``; the batches are spread over them.
    """

    settings: Settings
    seed: int
    cells: NDArray[np.int64]

    def new_model(self, n_features: int) -> nn.Module:
        """Return the network with its initial weights."""
        make = {"mlp": make_mlp, "cnn": make_cnn}[self.settings.model]
        return make(n_features, 1, self.settings.hidden, seed=self.seed).to(self.settings.device)

    def train(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, step: Step
    ) -> None:
        """Train ``model`` on the training rows, given as for :func:`fairclip.training.train`."""
        assert self.settings.batch_size is not None  # `prepare` has filled it in
        train(
            model,
            inputs,
            targets,
            groups,
            step=step,
            loss_fn=_row_losses,
            optimizer=self.new_optimizer(model),
            batches=GroupBatchSampler(self.cells, self.settings.batch_size, seed=self.seed),
            epochs=self.settings.epochs,
        )

    def new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of ``model``."""
        assert self.settings.lr is not None  # the settings have filled it in
        if self.settings.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), lr=self.settings.lr, momentum=_MOMENTUM)
        return torch.optim.Adam(model.parameters(), lr=self.settings.lr)


def to_scores(model: nn.Module, inputs: Tensor) -> NDArray[np.float64]:
    """Return the probabilities of class 1, ``(N,)``.

    Raises:
        RunError: If training diverged.
    """
    outputs = infer(model, inputs).squeeze(1)  # (N,)
    if not bool(outputs.isfinite().all()):
        raise RunError("training diverged, its outputs are not finite; lower `lr` (--lr).")
    return outputs.double().sigmoid().numpy()


def _row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")
