"""Rows to audit: drawn ones with absent cells, and fixed ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from numpy.typing import NDArray

HOSTILE_NAMES = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "👩‍🔬",
    "=cmd()|'/c calc'!A0",
    "@SUM(1)",
    "$x^2$ and $y_",
    "a|b\nc*d* [e](javascript:f)",
    "_leading",
]


@dataclass(frozen=True)
class Sample:
    """Labels (or numbers), predictions, scores and features of N rows."""

    y_true: NDArray[Any]
    y_pred: NDArray[Any]
    y_score: NDArray[np.float64]  # (N,), or (N, C) of several labels
    features: pd.DataFrame
    weight: NDArray[np.float64]


@st.composite
def samples(draw: st.DrawFn, max_rows: int = 60) -> Sample:
    """Draw rows of up to six intersections, of which some lack labels, predictions or rows."""
    rng, n_rows, skew = _start(draw, max_rows)
    features = _features(rng, n_rows, skew)
    y_true = (rng.random(n_rows) < skew).astype(np.int64)
    y_pred = np.where(rng.random(n_rows) < 0.7, y_true, 1 - y_true)
    y_score = np.round(rng.random(n_rows), 1)  # rounded, so that there are ties
    return Sample(y_true, y_pred, y_score, features, _weights(draw, rng, n_rows))


@st.composite
def class_samples(draw: st.DrawFn, max_rows: int = 60) -> Sample:
    """Draw rows of three to five labels, some of which only occur in the predictions."""
    rng, n_rows, skew = _start(draw, max_rows)
    banks: list[list[Any]] = [["cat", "dog", "emu"], [3, 1, 2, 0], list("vwxyz")]
    labels = draw(st.sampled_from(banks))
    features = _features(rng, n_rows, skew)
    true_labels = labels[: draw(st.integers(2, len(labels)))]
    y_true = rng.choice(np.array(true_labels), n_rows)
    y_pred = np.where(rng.random(n_rows) < 0.6, y_true, rng.choice(np.array(labels), n_rows))
    y_true[:2], y_pred[0] = labels[:2], labels[2]  # so that there are three
    n_labels = len(np.union1d(y_true, y_pred))
    kinds = rng.dirichlet(np.full(n_labels, 0.7), 5)  # few kinds of rows, so that there are ties
    y_score = kinds[rng.integers(0, 5, n_rows)]
    return Sample(y_true, y_pred, y_score, features, _weights(draw, rng, n_rows))


@st.composite
def number_samples(draw: st.DrawFn, max_rows: int = 60) -> Sample:
    """Draw rows of a regression, with groups far apart, of one row, or without any spread."""
    rng, n_rows, skew = _start(draw, max_rows)
    features = _features(rng, n_rows, skew)
    scale = draw(st.sampled_from([1e-3, 1.0, 1e5]))
    level = {"a": 0.0, "b": draw(st.sampled_from([0.0, 1.0, 1e4])), "c": 3.0}
    spread = {"a": 0.0, "b": 1.0, "c": draw(st.sampled_from([0.1, 1.0]))}
    race = features["race"]
    y_true = race.map(level) + race.map(spread) * rng.normal(size=n_rows)
    y_pred = y_true + draw(st.sampled_from([0.1, 1.0])) * rng.normal(0.2, 1.0, n_rows)
    return Sample(
        scale * y_true.to_numpy(np.float64),
        scale * y_pred.to_numpy(np.float64),
        np.empty(0),
        features,
        _weights(draw, rng, n_rows),
    )


def _start(draw: st.DrawFn, max_rows: int) -> tuple[np.random.Generator, int, float]:
    n_rows = draw(st.integers(2, max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng, n_rows, draw(st.sampled_from([0.05, 0.3, 0.5, 0.95]))


def _features(rng: np.random.Generator, n_rows: int, skew: float) -> pd.DataFrame:
    sex = rng.choice(["female", "male"], n_rows, p=[skew, 1 - skew])
    race = rng.choice(["a", "b", "c"], n_rows, p=[0.1, 0.2, 0.7])
    if n_rows < 6:  # three levels would be taken for an identifier
        race[race == "a"] = "b"
    return pd.DataFrame({"sex": sex, "race": race})


def _weights(draw: st.DrawFn, rng: np.random.Generator, n_rows: int) -> NDArray[np.float64]:
    kinds: list[list[float]] = [[1.0], [0.0, 1.0, 2.5], [1e-4, 1.0, 1e4]]
    weights = rng.choice(draw(st.sampled_from(kinds)), n_rows)
    weights[rng.integers(n_rows)] = 1.0  # not 0 in every row
    return weights


def table_sample(n_rows: int = 4000, seed: int = 0) -> Sample:
    """Return rows like a table's: four intersections of very different sizes, a decent model."""
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(
        {
            "sex": rng.choice(["female", "male"], n_rows, p=[0.3, 0.7]),
            "race": rng.choice(["black", "white"], n_rows, p=[0.1, 0.9]),
        }
    )
    base = np.where(features["sex"] == "male", 0.35, 0.15)
    y_true = (rng.random(n_rows) < base).astype(np.int64)
    y_score = np.clip(0.3 + 0.3 * y_true + rng.normal(0, 0.2, n_rows), 0, 1)
    weight = rng.uniform(0.5, 2.0, n_rows)
    return Sample(y_true, (y_score > 0.45).astype(np.int64), y_score, features, weight)
