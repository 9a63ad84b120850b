"""The networks and optimizers that a comparison can be asked for."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import fairclip
from fairclip.cli import app
from fairclip.comparison import Settings
from fairclip.comparison._fit import Trainer, to_scores
from fairclip.comparison._source import EMBEDDED, open_source
from fairclip.comparison._split import split, to_inputs, to_pixels
from fairclip.comparison._table import Table, make_table
from fairclip.training import WeightedStep
from tests.comparison._inputs import TINY, loans


def made(data: str, **chosen: Any) -> tuple[Table, Settings]:
    source, settings = open_source(Settings(data=data, **chosen))
    return make_table(source, settings), settings


def scores_of(table: Table, settings: Settings) -> tuple[np.ndarray, torch.nn.Module]:
    """Return the scores of the test part after a training in which all rows count the same."""
    rows = split(table, seed=0)
    inputs = (to_pixels if settings.model == "cnn" else to_inputs)(table.features, rows.train)
    trainer = Trainer(settings, 0, table.cells[rows.train])
    model = trainer.new_model(inputs.shape[1])
    targets = torch.from_numpy(table.y[rows.train]).float()
    one_group = torch.zeros(len(rows.train), dtype=torch.int64)
    trainer.train(model, inputs[rows.train], targets, one_group, WeightedStep(torch.ones(1)))
    return to_scores(model, inputs)[rows.test], model


@pytest.mark.parametrize("name", ["digits", "two_concepts"])
def test_synthetic_sets_have_names(name: str) -> None:
    table, settings = made(name)
    assert name in EMBEDDED
    assert len(settings.sensitive) == 1
    assert settings.sensitive[0] not in table.features
    assert table.favourable == "1"


def test_the_help_lists_the_embedded_sets() -> None:
    shown = CliRunner().invoke(app, ["compare", "--help"]).stdout
    assert all(re.search(rf"\b{name}\b", shown) for name in EMBEDDED)


def test_a_cnn_reads_the_digits() -> None:
    table, settings = made("digits", model="cnn", hidden=(8, 8), lr=0.01, batch_size=64)
    scores, model = scores_of(table, settings)
    y = table.y[split(table, seed=0).test]
    assert np.mean((scores >= 0.5) == y) > 0.9  # a constant has 0.8
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules()) == 2


def test_pixels_share_one_scale_learned_from_the_training_rows() -> None:
    features = pd.DataFrame({"a": [0.0, 2.0, 100.0], "b": [4.0, 6.0, 100.0]})
    pixels = to_pixels(features, np.array([0, 1]))
    expected = (torch.tensor([[0.0, 4.0], [2.0, 6.0], [100.0, 100.0]]) - 3) / 5**0.5
    torch.testing.assert_close(pixels, expected)
    assert to_pixels(features * 0, np.array([0, 1])).eq(0).all()


def test_no_hidden_layer_is_logistic_regression() -> None:
    chosen = {"hidden": (), "lr": 0.5, "epochs": 150, "batch_size": 4000}
    table, settings = made("two_concepts", optimizer="sgd", **chosen)
    scores, _ = scores_of(table, settings)
    rows = split(table, seed=0)
    inputs = to_inputs(table.features, rows.train).numpy()
    oracle = LogisticRegression(C=np.inf, tol=1e-8).fit(
        inputs[rows.train].astype(np.float64), table.y[rows.train]
    )
    expected = oracle.predict_proba(inputs[rows.test])[:, 1]
    np.testing.assert_allclose(scores, expected, atol=0.01)


def test_sgd_has_momentum_and_its_own_learning_rate() -> None:
    settings = Settings(optimizer="sgd")
    trainer = Trainer(settings, 0, np.zeros(1, dtype=np.int64))
    optimizer = trainer.new_optimizer(trainer.new_model(3))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["lr"] == settings.lr == 0.05
    assert Settings().lr == 1e-3
    assert Settings(optimizer="sgd", lr=0.2).lr == 0.2


def squares(**columns: Any) -> pd.DataFrame:
    """Return loans without words or gaps: three features, and ``columns``."""
    return loans().assign(a=0.0, b=1.0).fillna(0.0).drop(columns="job").assign(**columns)


@pytest.mark.parametrize("chosen", [{"model": "cnn"}, {"hidden": "none"}, {"optimizer": "sgd"}])
def test_arms_train_with_it(tmp_path: Path, chosen: dict[str, Any]) -> None:
    arms = ("fair_cap@2+clip", "group_dro", "fairret@1", "threshold")
    tiny = {**TINY, "seeds": 1, "epochs": 1, "arms": arms, **chosen}
    result = fairclip.compare(squares(c=2.0), out=tmp_path / "x", jobs=1, **tiny)
    assert np.isfinite(result.tradeoff["accuracy_mean"]).all()
    read = Settings.read(tmp_path / "x" / "config.toml")
    assert (read.model, read.hidden, read.optimizer, read.lr) == (
        chosen.get("model", "mlp"),
        () if "hidden" in chosen else (4,),
        chosen.get("optimizer", "adam"),
        {"model": 1e-3, "hidden": 0.03, "optimizer": 0.05}[next(iter(chosen))],
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "got 3 columns, of them 3 numbers and 0 with missing values"),
        ({"c": "word"}, "got 4 columns, of them 3 numbers"),
        ({"c": [None, *range(599)]}, "got 4 columns, of them 4 numbers and 1 with missing values"),
    ],
)
def test_a_cnn_refuses_what_is_no_square_image(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fairclip.compare(squares(**columns), out=tmp_path / "x", **TINY, model="cnn")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_earlier_versions_are_read(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('data = "german"\nhidden = [64, 64]\nlr = 0.001\n')
    assert Settings.read(config) == Settings(data="german")


@pytest.mark.parametrize("none", ["none", "", [], ()])
def test_no_hidden_layer_is_written_in_four_ways(none: Any) -> None:
    assert Settings(hidden=none).hidden == ()
    assert "hidden = []\n" in Settings(hidden=none).to_toml()
