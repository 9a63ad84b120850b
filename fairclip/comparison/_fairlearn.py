"""The arms that fairlearn does. Shapes: N rows, n training rows, M some rows, d inputs."""

import warnings
from typing import Any, Self

import numpy as np
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from fairclip.comparison._fit import Trainer, to_scores
from fairclip.comparison._rivals import ExponentiatedGradientArm, ThresholdOptimizerArm
from fairclip.training import WeightedStep


def optimise_thresholds(
    y: NDArray[np.int64],
    scores: NDArray[np.float64],
    groups: NDArray[np.int64],
    validation: NDArray[np.int64],
    arm: ThresholdOptimizerArm,
    seed: int,
) -> NDArray[np.int64]:
    """Return the predictions of a ``threshold_optimizer`` for all rows.

    Args:
        y: 0 or 1.
        scores: Of the unclipped model.
        groups: The group of each row; -1 = unknown.
        validation: The rows on which the cuts are chosen.
        arm: What they have to meet.
        seed: Of the draws.

    Shape:
        - ``y``, ``scores``, ``groups``, output: ``(N,)``.
    """
    chosen = validation[groups[validation] >= 0]
    optimizer = ThresholdOptimizer(
        estimator=_GivenScores(),
        constraints=arm.constraints,
        tol=arm.tol,
        prefit=True,
        predict_method="predict",
    )
    optimizer.fit(scores[chosen, None], y[chosen], sensitive_features=groups[chosen])
    y_pred, known = (scores >= 0.5).astype(np.int64), groups >= 0
    y_pred[known] = optimizer.predict(
        scores[known, None], sensitive_features=groups[known], random_state=seed
    )
    return y_pred


def exponentiated_gradient(
    inputs: Tensor,
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    rows: NDArray[np.int64],
    arm: ExponentiatedGradientArm,
    trainer: Trainer,
) -> NDArray[np.int64]:
    """Return the predictions of an ``exponentiated_gradient`` for all rows.

    Args:
        inputs: Of all rows.
        y: 0 or 1.
        groups: The group of each row; -1 = unknown.
        rows: The training rows.
        arm: What the mixture has to meet.
        trainer: Trains each network.

    Shape:
        - ``inputs``: ``(N, d)``. ``y``, ``groups``, output: ``(N,)``. ``rows``: ``(n,)``.
    """
    reduction = ExponentiatedGradient(
        _Network(trainer), EqualizedOdds(difference_bound=arm.difference_bound)
    )
    with warnings.catch_warnings():
        # What pandas 3 tells fairlearn about the way in which it fills its tables.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="fairlearn")
        reduction.fit(inputs[rows].numpy(), y[rows], sensitive_features=groups[rows])
    y_pred: NDArray[np.int64] = reduction.predict(inputs.numpy(), random_state=trainer.seed)
    return y_pred


class _GivenScores(BaseEstimator):  # type: ignore[misc]
    """A fitted model whose one input is its score."""

    def fit(self, X: Any, y: Any) -> Self:  # noqa: ARG002 - scikit-learn asks for it
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return X[:, 0]


class _Network:
    """The comparison's network as an estimator; a row's weight multiplies its loss."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        inputs = torch.from_numpy(np.asarray(X))  # (n, d)
        self._model = self._trainer.new_model(inputs.shape[1])
        each = torch.arange(len(inputs))  # every row is a group, with its own weight
        weights = torch.from_numpy(np.array(sample_weight))  # (n,)
        targets = torch.from_numpy(np.array(y)).float()
        self._trainer.train(self._model, inputs, targets, each, WeightedStep(weights))
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        scores = to_scores(self._model, torch.from_numpy(np.asarray(X)))  # (M,)
        return (scores >= 0.5).astype(np.int64)
