"""The weights of rows and classes."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from fairclip import FairClipClassifier, FairClipRegressor
from fairclip.training import WeightedStep, train
from tests.training._inputs import one_weight, planted, row_products
from tests.training._properties import assert_different_weights, assert_same_weights

X, y, SEX = planted()
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2, size=400)
SMALL: dict[str, Any] = {
    "epochs": 2,
    "hidden": (8,),
    "lr": 0.01,
    "min_reference_rows": 10,
    "random_state": 0,
}
CLASSES, NUMBERS = FairClipClassifier(**SMALL), FairClipRegressor(**SMALL)
BOTH = pytest.mark.parametrize("estimator", [CLASSES, NUMBERS], ids=["classes", "numbers"])


def fitted(estimator: Any, **options: Any) -> Any:
    return clone(estimator).fit(X, y, sensitive_features=SEX, **options)


def test_a_weight_multiplies_the_loss_of_its_row() -> None:
    model = one_weight(1.0)
    curve = train(
        model,
        torch.tensor([[1.0], [2.0], [4.0]]),
        torch.ones(3),
        torch.zeros(3, dtype=torch.int64),
        weights=torch.tensor([0.5, 2.0, 0.0]),
        step=WeightedStep(torch.ones(1)),
        loss_fn=row_products,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        batches=[[2, 1], [0]],
        epochs=1,
    )
    # Loss and gradient of the first batch: (0 * 4 + 2 * 2) / 2. The weight goes to 0.8.
    assert curve == pytest.approx([(2 * 2.0 + 0.5 * 0.8) / 3])
    assert model.weight.item() == pytest.approx(1 - 0.2 - 0.05)


@BOTH
def test_equal_weights_are_none(estimator: Any) -> None:
    model = fitted(estimator, sample_weight=np.full(400, 7.0))
    assert_same_weights(model.module_, fitted(estimator).module_)
    assert_different_weights(model.module_, fitted(estimator, sample_weight=WEIGHTS).module_)


@BOTH
@pytest.mark.parametrize("early_stopping", [False, True])
def test_rows_that_weigh_nothing_are_not_there(estimator: Any, early_stopping: bool) -> None:
    kept = np.random.default_rng(1).random(400) < 0.7
    model = clone(estimator).set_params(early_stopping=early_stopping)
    weighted = fitted(model, sample_weight=np.where(kept, WEIGHTS, 0))
    there = clone(model).fit(
        X[kept], y[kept], sensitive_features=SEX[kept], sample_weight=WEIGHTS[kept]
    )
    assert_same_weights(weighted.module_, there.module_)
    assert weighted.encoder_.counts_.tolist() == there.encoder_.counts_.tolist()


def test_the_cap_counts_rows_whatever_they_weigh() -> None:
    model = fitted(CLASSES, sample_weight=WEIGHTS)
    assert model.encoder_.counts_.tolist() == fitted(CLASSES).encoder_.counts_.tolist()


def test_weights_of_classes_are_weights_of_their_rows() -> None:
    by_row = fitted(CLASSES, sample_weight=np.where(y == 1, 3.0, 1.0) * WEIGHTS)
    for class_weight in ({1: 3.0}, {0: 1.0, 1: 3.0}):
        model = clone(CLASSES).set_params(class_weight=class_weight)
        assert_same_weights(fitted(model, sample_weight=WEIGHTS).module_, by_row.module_)


def test_balanced_classes_weigh_the_same() -> None:
    rare = y * (np.arange(400) % 2 == 0)
    weights = np.where(rare == 1, 1 / rare.mean(), 1 / (1 - rare.mean()))
    by_row = clone(CLASSES).fit(X, rare, sensitive_features=SEX, sample_weight=weights)
    model = clone(CLASSES).set_params(class_weight="balanced")
    model.fit(X, rare, sensitive_features=SEX)
    for one, other in zip(model.module_.parameters(), by_row.module_.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-4, atol=1e-6)


def test_a_class_that_weighs_nothing_stays_a_class() -> None:
    model = clone(CLASSES).set_params(class_weight={0: 0.0}, epochs=30)
    model.fit(X, y, sensitive_features=SEX)
    assert model.classes_.tolist() == [0, 1]
    assert model.predict(X).min() == 1


def test_validation_losses_are_weighted() -> None:
    module = nn.Linear(4, 1)
    nn.init.zeros_(module.weight)
    nn.init.constant_(module.bias, 2.0)
    model = FairClipClassifier(module=module, lr=1e-12, epochs=1, early_stopping=True)
    model.fit(X, y, sensitive_features=SEX, sample_weight=np.where(y == 1, 3.0, 1.0))
    # Half of the rows are of either class, here and in the rows held back.
    losses = np.log1p(np.exp([-2.0, 2.0]))
    share = y.mean()
    expected = (3 * share * losses[0] + (1 - share) * losses[1]) / (3 * share + 1 - share)
    assert model.validation_curve_ == pytest.approx([expected], rel=0.02)


@pytest.mark.parametrize(
    "weights", [np.zeros(400), np.where(np.arange(400) == 3, -1.0, 1.0), np.full(400, np.nan)]
)
def test_rejects_weights(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"weight|NaN"):
        fitted(CLASSES, sample_weight=weights)
