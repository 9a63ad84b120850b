"""`partial_fit` and warm starts: training goes on where the call before ended."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torch import nn

from fairclip import FairClipClassifier, FairClipRegressor, FairclipWarning
from fairclip.clipping import Percentile
from tests.training._inputs import planted
from tests.training._properties import assert_different_weights, assert_same_weights

X, y, SEX = planted()
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2, size=400)
SMALL: dict[str, Any] = {"hidden": (8,), "batch_size": 64, "lr": 0.01, "random_state": 0}
# What remembers most: averages of the cap, a window of the clip, Adam's moments.
CLASSES = FairClipClassifier(max_ratio=0.5, clip=Percentile(q=50, window=10), **SMALL)
NUMBERS = FairClipRegressor(max_ratio=0.5, clip=Percentile(q=50, window=10), **SMALL)
BOTH = pytest.mark.parametrize("estimator", [CLASSES, NUMBERS], ids=["classes", "numbers"])


def first_part(model: Any, *arguments: Any, **options: Any) -> Any:
    classes = {"classes": [0, 1]} if isinstance(model, FairClipClassifier) else {}
    return model.partial_fit(*arguments, **classes, **options)


def assert_same_training(one: Any, other: Any) -> None:
    assert_same_weights(one.module_, other.module_)
    assert one.loss_curve_ == other.loss_curve_
    assert one.n_iter_ == other.n_iter_ == len(one.loss_curve_)
    pd.testing.assert_frame_equal(one.trace_.to_frame(), other.trace_.to_frame())


@BOTH
def test_a_pass_at_a_time_is_a_fit_bit_for_bit(estimator: Any) -> None:
    whole = clone(estimator).set_params(epochs=3)
    whole.fit(X, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    parts = first_part(clone(estimator), X, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    for _ in range(2):
        parts = pickle.loads(pickle.dumps(parts))
        parts.partial_fit(X, y, sensitive_features=SEX, sample_weight=WEIGHTS)
    assert_same_training(parts, whole)


@BOTH
def test_a_warm_start_goes_on_where_the_fit_before_ended(estimator: Any) -> None:
    whole = clone(estimator).set_params(epochs=5).fit(X, y, sensitive_features=SEX)
    warm = clone(estimator).set_params(epochs=2, warm_start=True)
    warm.fit(X, y, sensitive_features=SEX).set_params(epochs=3)
    assert_same_training(warm.fit(X, y, sensitive_features=SEX), whole)


@BOTH
def test_without_a_warm_start_a_fit_begins_anew(estimator: Any) -> None:
    model = clone(estimator).set_params(epochs=1).fit(X, y, sensitive_features=SEX)
    first = pickle.loads(pickle.dumps(model))
    assert_same_training(model.fit(X, y, sensitive_features=SEX), first)


def test_a_warm_start_holds_back_the_same_rows() -> None:
    model = clone(CLASSES).set_params(epochs=2, early_stopping=True, warm_start=True, lr=1e-12)
    model.set_params(random_state=np.random.RandomState(0))
    for _ in range(2):
        model.fit(X, y, sensitive_features=SEX)
    assert model.validation_curve_ is not None
    assert len(model.validation_curve_) == len(model.loss_curve_) == 4
    assert np.ptp(model.validation_curve_) < 1e-6


def test_the_units_of_the_target_are_those_of_the_first_part() -> None:
    model = clone(NUMBERS).partial_fit(X, y, sensitive_features=SEX)
    model.partial_fit(X, 10.0 + y, sensitive_features=SEX)
    assert (model.target_mean_, model.target_scale_) == pytest.approx((y.mean(), y.std()))
    assert model.loss_curve_[1] > 100  # (10 / 0.5) ** 2 at first


def test_a_new_learning_rate_holds_from_the_next_call_on() -> None:
    one, other = (clone(CLASSES).set_params(epochs=1, warm_start=True) for _ in range(2))
    for model, rate in ((one, 0.01), (other, 1e-9)):
        model.fit(X, y, sensitive_features=SEX).set_params(lr=rate)
    before = pickle.loads(pickle.dumps(other.module_))
    for model in (one, other):
        model.fit(X, y, sensitive_features=SEX)
    assert_different_weights(one.module_, other.module_)
    for weight, old in zip(other.module_.parameters(), before.parameters(), strict=True):
        np.testing.assert_allclose(weight.detach(), old.detach(), atol=1e-7)


def test_dropout_is_drawn_anew_in_each_call() -> None:
    dropout = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    for parameter in dropout.parameters():
        nn.init.constant_(parameter, 0.1)
    model = FairClipRegressor(module=dropout, lr=1e-12, batch_size=400, random_state=0)
    for _ in range(2):  # rows that are all alike, so that their order does not matter
        model.partial_fit(np.ones((400, 4)), np.zeros(400), sensitive_features=SEX)
    first, second = model.loss_curve_
    assert first != pytest.approx(second, rel=1e-4)


def test_a_part_may_lack_classes_and_groups() -> None:
    model = clone(CLASSES).partial_fit(X, y, [0, 1, 2], sensitive_features=SEX)
    woman = np.arange(400) == np.argmax(SEX == "female")
    for rows in ((SEX == "female") & (y == 0), woman):
        model.partial_fit(X[rows], y[rows], sensitive_features=SEX[rows])
    assert model.predict_proba(X).shape == (400, 3)
    assert model.n_iter_ == 3
    men = model.trace_.to_frame().filter(like="n[sex=male")
    assert (men[-2:] == 0).all(axis=None)


def test_groups_are_those_of_the_first_part() -> None:
    men = (SEX == "male").to_numpy()
    model = clone(CLASSES).partial_fit(X[men], y[men], [0, 1], sensitive_features=SEX[men])
    with pytest.warns(FairclipWarning, match="a combination that `fit` did not see"):
        model.partial_fit(X, y, sensitive_features=SEX)
    assert model.encoder_ is not None
    assert model.encoder_.names_ == ["sex=male, y=0", "sex=male, y=1"]
    assert model.encoder_.counts_.sum() == men.sum()


def test_a_part_without_sensitive_features_is_not_capped() -> None:
    model = clone(CLASSES).set_params(smoothing=0.0)
    model.partial_fit(X, y, [0, 1], sensitive_features=SEX)
    n_steps = len(model.trace_)
    with pytest.warns(FairclipWarning, match="training without a cap") as caught:
        model.partial_fit(X, y)
    assert caught[0].filename == __file__
    trace = model.trace_.to_frame()
    factors, rows = trace.filter(like="factor["), trace.filter(like="n[")
    assert not (factors[:n_steps] == 1).all(axis=None)
    assert (factors[n_steps:] == 1).all(axis=None)
    assert (rows[n_steps:] == 0).all(axis=None)


def test_groups_cannot_come_later() -> None:
    with pytest.warns(FairclipWarning, match="training without a cap"):
        model = clone(CLASSES).partial_fit(X, y, [0, 1])
    with pytest.raises(ValueError, match="there are no groups to go on with"):
        model.partial_fit(X, y, sensitive_features=SEX)


@BOTH
def test_a_call_that_fails_leaves_the_model_as_it_was(estimator: Any) -> None:
    model = first_part(clone(estimator), X, y, sensitive_features=SEX)
    before = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(lr=1e30).partial_fit(X, y, sensitive_features=SEX)
    model.set_params(lr=0.01).partial_fit(X, y, sensitive_features=SEX)
    assert_same_training(model, before.partial_fit(X, y, sensitive_features=SEX))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"early_stopping": True}, "early_stopping"), ({"class_weight": "balanced"}, "mapping")],
)
def test_parts_reject_what_needs_all_rows(parameters: dict[str, Any], message: str) -> None:
    model = clone(CLASSES).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, y, [0, 1], sensitive_features=SEX)


def test_labels_are_held_to_the_classes() -> None:
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        clone(CLASSES).partial_fit(X, y, sensitive_features=SEX)
    with pytest.raises(ValueError, match="at least two classes"):
        clone(CLASSES).partial_fit(X, y * 0, [0], sensitive_features=SEX)
    model = clone(CLASSES).partial_fit(X, y, [0, 1], sensitive_features=SEX)
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(X, y, [0, 1, 2], sensitive_features=SEX)
    with pytest.raises(ValueError, match=r"not among the classes: \[2\]"):
        model.partial_fit(X, y * 2, sensitive_features=SEX)
    with pytest.raises(ValueError, match=r"not among the classes: \[-1\]"):
        model.set_params(warm_start=True).fit(X, -y, sensitive_features=SEX)
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.partial_fit(X[:, :2], y, sensitive_features=SEX)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@BOTH
def test_goes_on_on_a_gpu_from_what_is_kept_on_the_cpu(estimator: Any) -> None:
    model = clone(estimator).set_params(epochs=2, warm_start=True, device="cuda")
    model.fit(X, y, sensitive_features=SEX)
    assert b"cuda" not in pickle.dumps(model._position)
    assert model.fit(X, y, sensitive_features=SEX).loss_curve_[3] < model.loss_curve_[0]
