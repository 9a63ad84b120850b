import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fairclip import FairClipRegressor, FairclipWarning, GroupBatchSampler, GroupEncoder
from fairclip.clipping import Norm
from fairclip.training import make_mlp
from tests.training._inputs import planted
from tests.training._properties import assert_same_weights

X, _, SEX = planted()
INCOME = 40_000 + 9_000 * X[:, 0].astype(float) - 12_000 * X[:, 3]


def fitted(y: Any = INCOME, **parameters: Any) -> FairClipRegressor:
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 64,
        "lr": 0.01,
        "hidden": (8,),
        "random_state": 0,
    }
    return FairClipRegressor(**(defaults | parameters)).fit(X, y, sensitive_features=SEX)


def test_without_a_bound_it_is_a_plain_torch_loop_bit_for_bit() -> None:
    model = fitted(max_ratio=math.inf)

    seed = np.random.RandomState(0).randint(2**31 - 1)
    plain = make_mlp(4, 1, hidden=(8,), seed=seed)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    codes = GroupEncoder().fit(SEX).transform(SEX)
    batches = GroupBatchSampler(codes, 64, seed=seed)
    scaled = (INCOME - INCOME.mean()) / INCOME.std()
    inputs, targets = torch.from_numpy(X), torch.from_numpy(scaled).float()
    for _ in range(3):
        for rows in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(plain(inputs[rows])[:, 0], targets[rows]).backward()
            optimizer.step()

    assert_same_weights(model.module_, plain)
    assert (model.target_mean_, model.target_scale_) == (INCOME.mean(), INCOME.std())
    expected = plain(inputs).detach()[:, 0].double() * INCOME.std() + INCOME.mean()
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-12)


def test_it_learns_numbers_of_any_size() -> None:
    test = planted(1000, seed=1)
    for unit in (1e-6, 1.0, 1e6):
        model = fitted(INCOME * unit, epochs=30)
        expected = (40_000 + 9_000 * test.X[:, 0] - 12_000 * test.X[:, 3]) * unit
        assert model.score(test.X, expected) > 0.98


def test_groups_are_the_sensitive_features_alone() -> None:
    model = fitted(max_ratio=0.5, smoothing=0.0)
    assert model.encoder_ is not None
    assert model.encoder_.names_ == ["sex=female", "sex=male"]
    factors = model.trace_.to_frame()["factor[sex=male]"]
    assert (factors < 1).any()


def test_the_cap_raises_the_minoritys_share_of_the_update() -> None:
    def share(max_ratio: float) -> float:
        model = fitted(np.where(SEX == "female", -INCOME, INCOME), max_ratio=max_ratio, smoothing=0)
        return float(model.trace_.to_frame()["share[sex=female]"].mean())

    assert share(0.25) > share(1.0) > share(math.inf)


def test_every_field_of_the_cap_and_the_clip_reach_it() -> None:
    base = fitted(max_ratio=0.5)
    changes: list[dict[str, Any]] = [
        {"reference": "sex=male"},
        {"smoothing": 0.0},
        {"floor": 0.9},
        {"preserve_norm": True},
        {"scope": "layer"},
        {"clip": Norm(max_norm=0.01)},
    ]
    for change in changes:
        assert fitted(max_ratio=0.5, **change).loss_curve_ != base.loss_curve_, change
    with pytest.warns(FairclipWarning, match="fewer than 150 rows"):
        fitted(min_reference_rows=150)


def test_early_stopping_gives_the_weights_of_the_best_epoch() -> None:
    model = fitted(early_stopping=True, epochs=300, lr=0.05, n_iter_no_change=3)
    assert model.validation_curve_ is not None
    best = int(np.argmin(model.validation_curve_))
    assert model.n_iter_ == best + 4 == len(model.loss_curve_) < 300
    short = fitted(early_stopping=True, epochs=best + 1, lr=0.05, n_iter_no_change=3)
    assert_same_weights(model.module_, short.module_)


def test_losses_are_shares_of_the_variance() -> None:
    module = nn.Linear(4, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    model = fitted(module=module, lr=1e-12, epochs=1)  # it stays at the mean
    assert model.loss_curve_ == pytest.approx([1.0])
    np.testing.assert_allclose(model.predict(X), INCOME.mean())


def test_a_constant_is_learned() -> None:
    np.testing.assert_allclose(fitted(np.full(400, 7.0), epochs=30).predict(X), 7, atol=0.1)


@pytest.mark.parametrize("y", [INCOME.astype(int), pd.Series(INCOME), list(INCOME)])
def test_numbers_come_in_any_container(y: Any) -> None:
    predicted = fitted(y, epochs=30).predict(X)
    assert predicted.dtype == np.float64
    assert np.corrcoef(predicted, INCOME)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("y", "message"),
    [(np.where(np.arange(400) == 3, np.nan, INCOME), "NaN"), (INCOME[:10], "inconsistent numbers")],
)
def test_rejects_data(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(y)


def test_rejects_a_module_with_other_outputs() -> None:
    with pytest.raises(ValueError, match="must return 1 numbers per row"):
        fitted(module=nn.Linear(4, 2))
