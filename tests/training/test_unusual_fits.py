"""Fits that go wrong, or nearly: nothing is half done, and what is wrong is said."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fairclip import FairClipClassifier, FairClipRegressor
from tests.training._inputs import planted

X, y, SEX = planted()
QUICK: dict[str, Any] = {
    "epochs": 2,
    "hidden": (8,),
    "min_reference_rows": 1,
    "random_state": 0,
}
CLASSIFIER, REGRESSOR = FairClipClassifier(**QUICK), FairClipRegressor(**QUICK)
BOTH = pytest.mark.parametrize("estimator", [CLASSIFIER, REGRESSOR], ids=["classes", "numbers"])


@BOTH
def test_a_last_step_that_ruins_the_weights_is_noticed(estimator: Any) -> None:
    model = clone(estimator).set_params(epochs=1, batch_size=1000, lr=1e30)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y, sensitive_features=SEX)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_a_fit_that_fails_leaves_the_model_before_it() -> None:
    model = clone(REGRESSOR).fit(X, y, sensitive_features=SEX)
    before = model.predict(X)
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(lr=1e30).fit(X, 1e6 + y, sensitive_features=SEX)
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 100_000.1, 0.0])
def test_a_constant_target_has_the_scale_one(constant: float) -> None:
    model = clone(REGRESSOR).partial_fit(X, np.full(len(y), constant), sensitive_features=SEX)
    assert model.target_scale_ == 1.0
    assert model.target_mean_ == pytest.approx(constant)


@pytest.mark.parametrize("unit", [1e-170, 1e200])
def test_the_units_of_the_target_do_not_matter(unit: float) -> None:
    numbers = X[:, 0].astype(float)
    model, other = (clone(REGRESSOR).set_params(epochs=20, lr=0.03) for _ in range(2))
    model.fit(X, numbers * unit, sensitive_features=SEX)
    other.fit(X, numbers, sensitive_features=SEX)
    np.testing.assert_allclose(model.predict(X) / unit, other.predict(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "value"), [("hidden", (16,)), ("groups", "sensitive")])
def test_what_training_goes_on_with_cannot_change(name: str, value: Any) -> None:
    model = clone(CLASSIFIER).set_params(warm_start=True).fit(X, y, sensitive_features=SEX)
    model.set_params(**{name: value})
    with pytest.raises(ValueError, match=f"`{name}` was changed since"):
        model.fit(X, y, sensitive_features=SEX)
    model.set_params(warm_start=False).fit(X, y, sensitive_features=SEX)


def test_a_balance_is_of_what_the_rows_weigh() -> None:
    weights = np.where(y == 1, 3, 1)
    one_batch = clone(CLASSIFIER).set_params(
        class_weight="balanced", batch_size=10_000, max_ratio=np.inf, epochs=15, lr=0.03
    )
    weighed = clone(one_batch).fit(X, y, sensitive_features=SEX, sample_weight=weights)
    rows = np.repeat(np.arange(len(y)), weights)
    repeated = clone(one_batch).fit(X[rows], y[rows], sensitive_features=SEX[rows])
    np.testing.assert_allclose(
        weighed.predict_proba(X), repeated.predict_proba(X), rtol=1e-3, atol=1e-3
    )


@BOTH
def test_early_stopping_leaves_rows_of_each_group(estimator: Any) -> None:
    few = np.where(np.arange(len(y)) < 2, "few", SEX)
    labels = y.copy()
    labels[:2] = 1
    for seed in range(20):
        model = clone(estimator).set_params(
            early_stopping=True, validation_fraction=0.3, random_state=seed, epochs=1
        )
        model.fit(X, labels, sensitive_features=few)
        assert sum("few" in name for name in model.encoder_.names_) == 1


def test_very_large_weights_are_as_small_ones() -> None:
    model = clone(CLASSIFIER).fit(X, y, sensitive_features=SEX)
    heavy = clone(CLASSIFIER).fit(
        X, y, sensitive_features=SEX, sample_weight=np.full(len(y), 1e308)
    )
    assert heavy.loss_curve_ == pytest.approx(model.loss_curve_)
    with pytest.raises(ValueError, match="must be finite"):
        clone(CLASSIFIER).set_params(class_weight={0: 1.0, 1: np.inf}).fit(
            X, y, sensitive_features=SEX
        )


def test_many_classes_make_no_cells() -> None:
    many = np.arange(len(y)) % 60
    with pytest.raises(ValueError, match="60 classes, too many for cells: use groups='sensitive'"):
        clone(CLASSIFIER).fit(X, many, sensitive_features=SEX)
    clone(CLASSIFIER).set_params(groups="sensitive").fit(X, many, sensitive_features=SEX)
