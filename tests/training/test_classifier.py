import math
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fairclip import FairClipClassifier, FairclipWarning, GroupBatchSampler, GroupEncoder
from fairclip.clipping import Norm
from fairclip.training import make_mlp
from tests.training._inputs import planted
from tests.training._properties import assert_different_weights, assert_same_weights

X, y, SEX = planted()


def fitted(**parameters: Any) -> FairClipClassifier:
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 64,
        "lr": 0.01,
        "hidden": (8,),
        "random_state": 0,
    }
    return FairClipClassifier(**(defaults | parameters)).fit(X, y, sensitive_features=SEX)


def encoder_of(model: FairClipClassifier) -> GroupEncoder:
    assert model.encoder_ is not None
    return model.encoder_


def test_without_a_bound_it_is_a_plain_torch_loop_bit_for_bit() -> None:
    model = fitted(max_ratio=math.inf)

    seed = np.random.RandomState(0).randint(2**31 - 1)
    plain = make_mlp(4, 1, hidden=(8,), seed=seed)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    codes = GroupEncoder(with_label=True).fit(SEX, y).transform(SEX, y)
    batches = GroupBatchSampler(codes, 64, seed=seed)
    inputs, targets = torch.from_numpy(X), torch.from_numpy(y).float()
    for _ in range(3):
        for rows in batches:
            optimizer.zero_grad()
            logits = plain(inputs[rows])[:, 0]
            losses = nn.BCEWithLogitsLoss(reduction="none")(logits, targets[rows])
            losses.mean().backward()
            optimizer.step()

    assert_same_weights(model.module_, plain)


def test_the_cap_raises_the_rare_cells_share_of_the_update() -> None:
    def share(max_ratio: float) -> float:
        # Women are a quarter of the rows, and what the men's rows ask for is the opposite.
        trace = fitted(max_ratio=max_ratio, smoothing=0.0, epochs=10).trace_.to_frame()
        women = trace.filter(like="share[sex=female")
        assert women.shape[1] == 2
        return float(women.sum(axis=1).median())

    assert share(0.25) > share(1.0) > share(math.inf)


def test_the_cap_changes_the_weights_and_no_bound_keeps_all_factors_at_one() -> None:
    free, capped = fitted(max_ratio=math.inf), fitted(max_ratio=0.5)
    assert_different_weights(free.module_, capped.module_)
    for model, expected in [(free, True), (capped, False)]:
        factors = model.trace_.to_frame().filter(like="factor[")
        assert factors.shape[1] == 4
        assert bool((factors == 1).all(axis=None)) is expected


def test_every_field_of_the_cap_reaches_it() -> None:
    base = fitted()
    changes: list[dict[str, Any]] = [
        {"reference": "smallest_norm"},
        {"within": "label"},
        {"smoothing": 0.0},
        {"floor": 0.9},
        {"preserve_norm": True},
        {"scope": "layer"},
        {"min_reference_rows": 1, "reference": 3},
        {"within": "label", "max_factor": 1.01},
    ]
    for change in changes:
        assert_different_weights(base.module_, fitted(max_ratio=0.5, **change).module_)


def test_the_clip_acts_on_top_of_the_cap() -> None:
    trace = fitted(clip=Norm(max_norm=0.01)).trace_.to_frame()
    assert (trace["norm_capped"] > 0.01).all()
    np.testing.assert_allclose(trace["norm_clipped"], 0.01, rtol=1e-4)


def test_groups_are_cells() -> None:
    assert encoder_of(fitted()).names_ == [
        "sex=female, y=0",
        "sex=female, y=1",
        "sex=male, y=0",
        "sex=male, y=1",
    ]


def test_groups_may_be_the_sensitive_features_alone() -> None:
    model = fitted(groups="sensitive", max_ratio=0.5, smoothing=0.0)
    assert encoder_of(model).names_ == ["sex=female", "sex=male"]
    assert (model.trace_.to_frame()["factor[sex=male]"] < 1).any()


def test_without_sensitive_features_nothing_is_capped_and_a_warning_says_so() -> None:
    with pytest.warns(FairclipWarning, match="training without a cap") as caught:
        model = FairClipClassifier(epochs=2, random_state=0).fit(X, y)
    assert caught[0].filename == __file__
    assert model.encoder_ is None
    assert (model.trace_.to_frame().filter(like="factor[") == 1).all(axis=None)


def test_it_learns_what_was_planted() -> None:
    model = fitted(epochs=30, hidden=(32,))
    test = planted(2000, seed=1)
    assert model.score(test.X, test.y) > 0.85
    women = test.sex == "female"
    assert model.score(test.X[women], test.y[women]) > 0.7


def test_three_classes() -> None:
    three = np.array(["low", "mid", "high"])[np.digitize(X[:, 0], [-0.5, 0.5])]
    model = FairClipClassifier(epochs=30, lr=0.01, min_reference_rows=10, random_state=0)
    model.fit(X, three, sensitive_features=SEX)
    assert list(model.classes_) == ["high", "low", "mid"]
    assert model.predict_proba(X).shape == (400, 3)
    assert model.score(X, three) > 0.9


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [-1, 1], [0.0, 1.0]])
def test_labels_come_back_as_they_went_in(labels: list[Any]) -> None:
    target = np.array(labels)[y]
    model = FairClipClassifier(epochs=20, lr=0.01, random_state=0)
    predicted = model.fit(X, target, sensitive_features=SEX).predict(X)
    assert predicted.dtype == target.dtype
    assert set(predicted) == set(labels)
    assert np.mean(predicted == target) > 0.7


def test_probabilities_are_those_of_the_module() -> None:
    model = fitted()
    logits = model.module_(torch.from_numpy(X))[:, 0]
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities[:, 1], logits.sigmoid().detach(), rtol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert probabilities.dtype == np.float64


def test_early_stopping_gives_the_weights_of_the_best_epoch() -> None:
    model = fitted(early_stopping=True, epochs=200, lr=0.05, n_iter_no_change=3)
    assert model.validation_curve_ is not None
    best = int(np.argmin(model.validation_curve_))
    assert model.n_iter_ == best + 4 == len(model.loss_curve_) < 200
    short = fitted(early_stopping=True, epochs=best + 1, lr=0.05, n_iter_no_change=3)
    assert_same_weights(model.module_, short.module_)


def test_early_stopping_holds_rows_back() -> None:
    model = fitted(early_stopping=True, validation_fraction=0.25)
    assert encoder_of(model).counts_.sum() == 300
    assert encoder_of(fitted()).counts_.sum() == 400
    assert fitted().validation_curve_ is None


def test_rows_are_held_back_by_class() -> None:
    rare = np.arange(400) < 40
    model = FairClipClassifier(
        epochs=1, early_stopping=True, validation_fraction=0.25, min_reference_rows=1
    )
    encoder = encoder_of(model.fit(X, rare, sensitive_features=SEX))
    assert encoder.counts_[encoder.strata_ == 1].sum() == 30


def test_the_random_state_decides_the_weights() -> None:
    dropout = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    for parameters in ({}, {"module": dropout}, {"early_stopping": True}):
        model = fitted(**parameters)
        torch.rand(3)
        assert_same_weights(model.module_, fitted(**parameters).module_)
        assert_different_weights(model.module_, fitted(random_state=1, **parameters).module_)


def test_global_random_states_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    fitted(module=module)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_equal(np.random.get_state(), numpy_state)  # noqa: NPY002


def test_a_module_is_copied_and_starts_from_its_weights() -> None:
    module = make_mlp(4, 1, hidden=(8,), seed=5)
    model = fitted(module=module)
    assert_same_weights(module, make_mlp(4, 1, hidden=(8,), seed=5))
    assert_different_weights(module, model.module_)
    assert_same_weights(model.module_, fitted(module=module).module_)


def test_it_pickles_with_all_it_learned() -> None:
    model = fitted()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    pd.testing.assert_frame_equal(again.trace_.to_frame(), model.trace_.to_frame())
    assert encoder_of(again).names_ == encoder_of(model).names_
    again.fit(X, y, sensitive_features=SEX)
    assert_same_weights(again.module_, model.module_)


def test_verbose_shows_a_progress_bar_with_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    model = fitted(verbose=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert f"loss={model.loss_curve_[-1]:.4g}" in shown
    fitted()
    assert capsys.readouterr().err == ""


def test_missing_sensitive_values_are_rows_of_an_unknown_group() -> None:
    some = SEX.mask(np.arange(400) < 10)
    with pytest.warns(FairclipWarning):
        model = FairClipClassifier(epochs=1, random_state=0).fit(X, y, sensitive_features=some)
    assert encoder_of(model).counts_.sum() == 390


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_ratio": 0}, "max_ratio"),
        ({"max_ratio": math.nan}, "max_ratio"),
        ({"within": "group"}, "within"),
        ({"groups": "rows"}, "groups"),
        ({"groups": "sensitive", "within": "label"}, "needs cells"),
        ({"class_weight": "equal"}, "class_weight"),
        ({"class_weight": {0: -1, 1: 1}}, "not negative"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"hidden": (0,)}, "hidden"),
        ({"early_stopping": True, "n_iter_no_change": 0}, "n_iter_no_change"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction"),
        ({"device": "abacus"}, "abacus"),
        ({"module": nn.Linear(3, 1)}, "`module` fails on"),
        ({"module": nn.Linear(4, 2)}, "must return 1 numbers per row"),
        ({"module": nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))}, r"got \(2,\)"),
        ({"module": nn.Identity()}, "no trainable parameters"),
        ({"lr": 1e30}, "diverged"),
    ],
)
def test_rejects_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(**parameters)


@pytest.mark.parametrize("name", ["module", "clip"])
def test_rejects_what_is_no_module_and_no_mode(name: str) -> None:
    with pytest.raises(TypeError, match=f"`{name}` must be"):
        fitted(**{name: "norm"})


@pytest.mark.parametrize(
    ("X", "y", "sex", "message"),
    [
        (X, np.zeros(400), SEX, "at least two classes"),
        (X, y, SEX[:10], "inconsistent numbers of samples"),
        (X, y[:10], SEX, "inconsistent numbers of samples"),
        (X * np.nan, y, SEX, "NaN"),
        (X, X[:, 0], SEX, "Unknown label type"),
        (X, np.where(y == 1, np.nan, 0), SEX, "NaN"),
    ],
)
def test_rejects_data(X: Any, y: Any, sex: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairClipClassifier().fit(X, y, sensitive_features=sex)


def test_read_only_arrays_are_fine() -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    model = FairClipClassifier(epochs=1, random_state=0).fit(frozen, y, sensitive_features=SEX)
    assert model.predict(frozen).shape == (400,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_a_gpu_and_predicts_on_the_cpu() -> None:
    model = fitted(device="auto", epochs=30)
    assert next(model.module_.parameters()).device.type == "cpu"
    assert model.score(X, y) > 0.8
