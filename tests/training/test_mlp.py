from typing import Any

import numpy as np
import pytest
import torch

from fairclip import FairClipClassifier
from fairclip.training import make_mlp
from tests.training._inputs import planted
from tests.training._properties import assert_different_weights, assert_same_weights


def test_widths() -> None:
    model = make_mlp(5, 3, hidden=(7, 2), seed=0)
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    assert shapes == [(7, 5), (7,), (2, 7), (2,), (3, 2), (3,)]
    assert model(torch.zeros(4, 5)).shape == (4, 3)


def test_no_hidden_layer_is_a_linear_model() -> None:
    (layer,) = make_mlp(5, 1, hidden=(), seed=0)
    assert isinstance(layer, torch.nn.Linear)


def test_the_seed_decides_the_weights() -> None:
    assert_same_weights(make_mlp(5, 3, seed=1), make_mlp(5, 3, seed=1))
    assert_different_weights(make_mlp(5, 3, seed=1), make_mlp(5, 3, seed=2))


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = make_mlp(5, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert_same_weights(one, make_mlp(5, 3, seed=1))


def test_the_defaults_of_torch_do_not_matter() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        model = make_mlp(5, 3, seed=1)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
    assert_same_weights(model, make_mlp(5, 3, seed=1))


def test_estimators_fit_where_float64_is_the_default() -> None:
    X, y, sex = planted()
    torch.set_default_dtype(torch.float64)
    try:
        model = FairClipClassifier(epochs=1, random_state=0).fit(X, y, sensitive_features=sex)
    finally:
        torch.set_default_dtype(torch.float32)
    again = FairClipClassifier(epochs=1, random_state=0).fit(X, y, sensitive_features=sex)
    np.testing.assert_allclose(model.predict_proba(X), again.predict_proba(X), rtol=1e-5)


@pytest.mark.parametrize("hidden", [(0,), (-1,), (2.5,), 64, "64"])
def test_rejects_widths(hidden: Any) -> None:
    with pytest.raises(ValueError, match="`hidden` must be a sequence of positive integers"):
        make_mlp(5, 3, hidden=hidden, seed=0)
