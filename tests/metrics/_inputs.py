"""Rows to audit: drawn ones with absent cells, and fixed ones."""

from dataclasses import dataclass

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
    """Labels, predictions, scores and features of N rows."""

    y_true: NDArray[np.int64]
    y_pred: NDArray[np.int64]
    y_score: NDArray[np.float64]
    features: pd.DataFrame


@st.composite
def samples(draw: st.DrawFn, max_rows: int = 60) -> Sample:
    """Draw rows of up to six intersections, of which some lack labels, predictions or rows."""
    n_rows = draw(st.integers(2, max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([0.05, 0.3, 0.5, 0.95]))
    features = pd.DataFrame(
        {
            "sex": rng.choice(["female", "male"], n_rows, p=[skew, 1 - skew]),
            "race": rng.choice(["a", "b", "c"], n_rows, p=[0.1, 0.2, 0.7]),
        }
    )
    y_true = (rng.random(n_rows) < skew).astype(np.int64)
    y_pred = np.where(rng.random(n_rows) < 0.7, y_true, 1 - y_true)
    y_score = np.round(rng.random(n_rows), 1)  # rounded, so that there are ties
    return Sample(y_true, y_pred, y_score, features)


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
    return Sample(y_true, (y_score > 0.45).astype(np.int64), y_score, features)
