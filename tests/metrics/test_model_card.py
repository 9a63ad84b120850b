import re
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from fairclip.metrics import Audit, Tradeoff, audit, tradeoff
from tests.metrics._inputs import HOSTILE_NAMES, table_sample

model_card: Any = import_module("fairclip.metrics._report._model_card").model_card
suppress: Any = import_module("fairclip.metrics._suppress").suppress

_HEADINGS = ["Factors", "Metrics", "Evaluation data", "Quantitative analyses", "Caveats"]


def _audits() -> dict[str, Audit | Tradeoff]:
    sample = table_sample(900)
    rng = np.random.default_rng(0)
    groups = {"g": rng.choice(["a", "b"], 200)}
    y = rng.choice(["x", "y", "z"], 200)
    common: dict[str, Any] = {"sensitive_features": sample.features, "n_boot": 9}
    return {
        "binary": audit(sample.y_true, sample.y_pred, y_score=sample.y_score, **common),
        "multiclass": audit(y, np.roll(y, 1), sensitive_features=groups, n_boot=9),
        "regression": audit(
            rng.normal(size=200), rng.normal(size=200), sensitive_features=groups, n_boot=9
        ),
        "tradeoff": tradeoff(
            {"unclipped": sample.y_pred, "cap": 1 - sample.y_pred}, sample.y_true, **common
        ),
    }


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "tradeoff"])
def test_a_card_has_the_headings_of_model_cards_and_is_short(kind: str) -> None:
    text = model_card(_audits()[kind])
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == _HEADINGS
    assert text.startswith("## Factors\n")
    assert len(text.split()) < 1200
    assert not re.search(r"^# ", text, re.MULTILINE)


def test_a_card_shows_the_figures_of_the_tables() -> None:
    found = _audits()["binary"]
    assert isinstance(found, Audit)
    text = model_card(found)
    for group, value in found.intervals["value"].unstack("metric")["accuracy"].items():
        assert re.search(rf"\| {group} \| [\d,]+ \| {value:.3f} \(", text)
    assert found.settings["data_sha256"] in text


def test_of_many_groups_the_extremes_are_shown() -> None:
    groups = np.repeat([f"g{k:02}" for k in range(30)], 20)
    y = np.tile([0, 1], 300)
    wrong = np.arange(600) % 20 < np.repeat(np.arange(30) // 2, 20)
    found = audit(y, np.where(wrong, 1 - y, y), sensitive_features={"g": groups}, n_boot=9)
    text = model_card(found)
    shown = re.findall(r"^\| g=(g\d\d) ", text, re.MULTILINE)
    assert len(shown) == 10
    assert {"g00", "g29"} <= set(shown)
    assert "of 30 groups those with the lowest and highest accuracy" in text


def test_hidden_groups_are_not_in_a_card() -> None:
    groups = ["a"] * 100 + ["b"] * 100 + ["tiny"] * 5 + ["little"] * 30
    y = np.tile([0, 1], 118)[:235]
    found = audit(y, y, sensitive_features={"g": groups}, n_boot=9)
    assert "tiny" in model_card(found)
    text = model_card(suppress(found, 10))
    assert "tiny" not in text
    assert "little" not in text


def test_hostile_names_are_escaped() -> None:
    groups = np.repeat(HOSTILE_NAMES, 10)
    y = np.tile([0, 1], len(groups) // 2)
    text = model_card(audit(y, y, sensitive_features={"<b>": groups}, n_boot=9))
    assert "<" not in text
    assert not re.search(r"(?<!\\)\[", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == _HEADINGS
