"""The estimators among scikit-learn's tools."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairclip import FairClipClassifier, FairClipRegressor
from tests.training._inputs import planted

X, y, SEX = planted()
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2, size=400)
QUICK = FairClipClassifier(epochs=2, hidden=(8,), min_reference_rows=10, random_state=0)
QUICK_NUMBERS = FairClipRegressor(epochs=2, hidden=(8,), min_reference_rows=10, random_state=0)
BOTH = pytest.mark.parametrize("estimator", [QUICK, QUICK_NUMBERS], ids=["classes", "numbers"])


# The checks ask for some accuracy after few steps, hence the step size.
CHECKED: dict[str, Any] = {"epochs": 15, "lr": 0.03, "batch_size": 64, "random_state": 0}

EXPECTED_TO_FAIL = {
    "check_methods_subset_invariance": "float32 outputs agree to 1e-6, the check asks for 1e-7; "
    "see test_a_row_is_predicted_the_same_alone",
    "check_sample_weight_equivalence_on_dense_data": "sums in float32 agree to 1e-4 after 15 steps,"
    " the check asks for 1e-7; see test_a_weight_is_as_many_rows",
    "check_sample_weight_equivalence_on_sparse_data": "as on dense data",
}


# The checks know nothing of sensitive features, so every fit warns that nothing is capped.
@pytest.mark.filterwarnings("ignore:No `sensitive_features`")
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [FairClipClassifier(**CHECKED), FairClipRegressor(**CHECKED)],
    expected_failed_checks=lambda _: EXPECTED_TO_FAIL,
    xfail_strict=False,  # on some processors the rounding is the same
)
def test_scikit_learns_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@BOTH
def test_a_row_is_predicted_the_same_alone(estimator: Any) -> None:
    model = clone(estimator).fit(X, y, sensitive_features=SEX)
    method = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    alone = np.concatenate([method(row[None]) for row in X])
    np.testing.assert_allclose(alone, method(X), rtol=1e-5, atol=1e-6)


@BOTH
def test_a_weight_is_as_many_rows(estimator: Any) -> None:
    # In one batch, since other rows make other batches.
    times = np.random.default_rng(0).integers(0, 4, size=400)
    model = clone(estimator).set_params(batch_size=10_000, max_ratio=np.inf, epochs=15)
    weighted = clone(model).fit(X, y, sensitive_features=SEX, sample_weight=times)
    repeated = model.fit(
        X.repeat(times, 0), y.repeat(times), sensitive_features=SEX.repeat(times.tolist())
    )
    method = "predict_proba" if hasattr(model, "predict_proba") else "predict"
    expected = getattr(repeated, method)(X)
    np.testing.assert_allclose(getattr(weighted, method)(X), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-4)


@BOTH
def test_clones_have_the_parameters_and_nothing_else(estimator: Any) -> None:
    model = clone(estimator).fit(X, y, sensitive_features=SEX)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "module_")


@pytest.fixture
def routing() -> Iterator[None]:
    with config_context(enable_metadata_routing=True):
        yield


def routed(estimator: Any) -> Any:
    model = clone(estimator).set_fit_request(sensitive_features=True, sample_weight=True)
    return model.set_score_request(sample_weight=False)


def n_grouped(model: Any) -> int:
    """Return the rows of which the sensitive features arrived."""
    return int(model.encoder_.counts_.sum())


def test_a_pipeline_passes_sensitive_features_by_name() -> None:
    pipeline = make_pipeline(StandardScaler(), clone(QUICK))
    pipeline.fit(X, y, fairclipclassifier__sensitive_features=SEX)
    assert n_grouped(pipeline[-1]) == 400


@BOTH
@pytest.mark.usefixtures("routing")
def test_a_pipeline_routes_sensitive_features_and_weights(estimator: Any) -> None:
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    pipeline = make_pipeline(scaler, routed(estimator))
    pipeline.fit(X, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    assert n_grouped(pipeline[-1]) == 400
    scaled = StandardScaler().fit_transform(X)
    direct = clone(estimator).fit(scaled, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    assert pipeline[-1].loss_curve_ == direct.loss_curve_


@pytest.mark.usefixtures("routing")
def test_a_grid_search_routes_sensitive_features_to_each_fold() -> None:
    seen: list[int] = []

    def score(model: Any, X: Any, y: Any) -> float:
        seen.append(n_grouped(model[-1]))
        return float(np.mean(model.predict(X) == y))

    grid = {"fairclipclassifier__max_ratio": [0.5, np.inf]}
    pipeline = make_pipeline(StandardScaler(), QUICK).set_params(fairclipclassifier=routed(QUICK))
    search = GridSearchCV(pipeline, grid, cv=4, scoring=score, error_score="raise")
    search.fit(X, y, sensitive_features=SEX)
    assert seen == [300] * 8
    assert n_grouped(search.best_estimator_[-1]) == 400


@BOTH
@pytest.mark.usefixtures("routing")
def test_cross_validation_routes_sensitive_features_to_each_fold(estimator: Any) -> None:
    found = cross_validate(
        routed(estimator),
        X,
        y,
        params={"sensitive_features": SEX, "sample_weight": WEIGHTS},
        cv=4,
        return_estimator=True,
        error_score="raise",
    )
    assert [n_grouped(model) for model in found["estimator"]] == [300] * 4


@pytest.mark.usefixtures("routing")
def test_calibration_routes_sensitive_features_to_each_fold() -> None:
    calibrated = CalibratedClassifierCV(routed(QUICK), cv=4)
    calibrated.fit(X, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    folds = [fold.estimator for fold in calibrated.calibrated_classifiers_]
    assert [n_grouped(model) for model in folds] == [300] * 4
    assert calibrated.predict_proba(X).shape == (400, 2)


@BOTH
@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_tables_are_as_arrays_and_their_names_are_held(library: Any, estimator: Any) -> None:
    table = library.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    sensitive = library.DataFrame({"sex": SEX.to_numpy()})
    target = library.Series(y)
    from_table = clone(estimator).fit(table, target, sensitive_features=sensitive)
    from_arrays = clone(estimator).fit(X, y, sensitive_features=SEX)
    assert list(from_table.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(from_table.predict(table), from_arrays.predict(X))
    np.testing.assert_array_equal(from_table.encoder_.counts_, from_arrays.encoder_.counts_)
    with pytest.raises(ValueError, match="feature names"):
        from_table.predict(table[["d", "c", "b", "a"]])


@BOTH
@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_rows_of_tables_that_weigh_nothing_or_are_held_back(library: Any, estimator: Any) -> None:
    table = library.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    model = clone(estimator).set_params(early_stopping=True, validation_fraction=0.25)
    sensitive = library.Series("sex", SEX.to_numpy()) if library is pl else SEX
    weights = library.Series(np.arange(400) % 2)
    model.fit(table, library.Series(y), sensitive_features=sensitive, sample_weight=weights)
    assert n_grouped(model) == 150


@BOTH
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.coo_array])
def test_sparse_rows_are_as_dense_ones(kind: Callable[[Any], Any], estimator: Any) -> None:
    zeros = np.where(X > 0.5, X, 0)
    model = clone(estimator).set_params(early_stopping=True)
    dense = clone(model).fit(zeros, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    model.fit(kind(zeros), y, sensitive_features=SEX, sample_weight=WEIGHTS)
    assert model.loss_curve_ == dense.loss_curve_
    assert model.validation_curve_ == dense.validation_curve_
    np.testing.assert_array_equal(model.predict(kind(zeros)), dense.predict(zeros))


def test_a_sparse_matrix_is_never_dense_as_a_whole() -> None:
    most = 0

    class Watched(sparse.csr_array):  # type: ignore[misc]
        def toarray(self, *arguments: Any, **options: Any) -> Any:
            nonlocal most
            most = max(most, self.shape[0])
            return super().toarray(*arguments, **options)

    rows = Watched(sparse.random_array((5000, 30), density=0.1, format="csr", rng=0))
    target = np.arange(5000) % 2
    model = clone(QUICK).set_params(batch_size=500)
    model.fit(rows, target, sensitive_features=target)
    assert most == 500
    model.predict(rows)
    assert most == 4096
