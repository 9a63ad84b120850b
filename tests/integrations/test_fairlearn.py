"""fairlearn's tools on top of the classifier, on real rows."""

from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient
from sklearn.metrics import balanced_accuracy_score

from fairclip import FairClipClassifier, FairclipWarning
from fairclip.datasets import load_adult
from tests.training._properties import assert_different_weights, assert_same_weights

N = 2000
ADULT = load_adult()
X = ADULT.X[["age", "education_num", "hours_per_week"]][:N].astype(float)
X = ((X - X.mean()) / X.std()).assign(
    married=ADULT.X["marital_status"][:N].str.startswith("Married")
)
Y = ADULT.y[:N].to_numpy()
SEX = ADULT.sensitive_features["sex"][:N]
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "hidden": (16,),
    "lr": 0.01,
    "min_reference_rows": 1,  # a reduction relabels rows, which leaves few in some cells
    "random_state": 0,
}


class BySex(FairClipClassifier):
    """The recipe of the classifier's docstring, with notes of what it was given."""

    notes: list[tuple[Any, Any]]

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> Any:  # type: ignore[override]
        self.notes = [(y, sample_weight)]
        return super().fit(X, y, sensitive_features=SEX[X.index], sample_weight=sample_weight)


def selection_gap(predicted: Any) -> float:
    return float(demographic_parity_difference(Y, predicted, sensitive_features=SEX))


def test_thresholds_by_group_of_a_fitted_classifier() -> None:
    model = FairClipClassifier(**SETTINGS).fit(X, Y, sensitive_features=SEX)
    assert selection_gap(model.predict(X)) > 0.1
    moved = ThresholdOptimizer(
        estimator=model,
        constraints="demographic_parity",
        objective="balanced_accuracy_score",
        prefit=True,
        predict_method="predict_proba",
    ).fit(X, Y, sensitive_features=SEX)
    predicted = moved.predict(X, sensitive_features=SEX, random_state=0)
    assert selection_gap(predicted) < 0.02
    assert balanced_accuracy_score(Y, predicted) > 0.7


def test_thresholds_by_group_of_a_classifier_that_is_fitted_there() -> None:
    def optimized(estimator: FairClipClassifier) -> Any:
        moved = ThresholdOptimizer(
            estimator=estimator, constraints="equalized_odds", predict_method="predict_proba"
        ).fit(X, Y, sensitive_features=SEX)
        predicted = moved.predict(X, sensitive_features=SEX, random_state=0)
        assert equalized_odds_difference(Y, predicted, sensitive_features=SEX) < 0.05
        assert np.mean(predicted == Y) > max(Y.mean(), 1 - Y.mean())
        return moved.estimator_

    with pytest.warns(FairclipWarning, match="training without a cap"):
        assert optimized(FairClipClassifier(**SETTINGS)).encoder_ is None
    assert optimized(BySex(**SETTINGS)).encoder_.counts_.sum() == N


# fairlearn writes to its Series in ways that pandas 3 gives up.
IN_FAIRLEARN = pytest.mark.filterwarnings(
    "ignore:Setting a value on a Series via .at",
    "ignore:Setting an item of incompatible dtype",
)


@IN_FAIRLEARN
def test_a_reduction_of_classifiers_without_a_cap() -> None:
    model = FairClipClassifier(**SETTINGS)
    reduction = ExponentiatedGradient(model, DemographicParity(), max_iter=4)
    with pytest.warns(FairclipWarning, match="training without a cap"):
        reduction.fit(X, Y, sensitive_features=SEX)
    assert all(model.encoder_ is None for model in reduction.predictors_)
    predicted = reduction.predict(X, random_state=0)
    assert selection_gap(predicted) < 0.06
    assert selection_gap(reduction.predictors_[0].predict(X)) > 0.1  # without a constraint yet
    assert balanced_accuracy_score(Y, predicted) > 0.55


@IN_FAIRLEARN
def test_a_reduction_of_capped_classifiers_weighs_their_rows() -> None:
    reduction = ExponentiatedGradient(BySex(**SETTINGS), EqualizedOdds(), max_iter=3)
    reduction.fit(X, Y, sensitive_features=SEX)
    model = reduction.predictors_.iloc[-1]
    ((labels, weights),) = model.notes
    assert model.encoder_.counts_.sum() == N
    assert (model.trace_.to_frame().filter(like="factor[") < 1).any(axis=None)
    direct = FairClipClassifier(**SETTINGS)
    direct.fit(X, labels, sensitive_features=SEX, sample_weight=weights)
    assert_same_weights(model.module_, direct.module_)
    direct.fit(X, labels, sensitive_features=SEX)
    assert_different_weights(model.module_, direct.module_)
