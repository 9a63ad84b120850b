"""A small table with two groups, numbers with gaps, words and a target in words."""

from typing import Any

import numpy as np
import pandas as pd

# Two seeds of a tiny network, in a second or two.
TINY: dict[str, Any] = {
    "target": "approved",
    "sensitive": "region",
    "seeds": 2,
    "epochs": 2,
    "hidden": 4,
    "quick": True,
}


def loans(n: int = 600) -> pd.DataFrame:
    """Return n rows; a third are from the north."""
    rng = np.random.default_rng(0)
    north = rng.random(n) < 1 / 3
    income = rng.normal(3 - north, 1, n)
    approved = income + rng.normal(0, 1, n) > 2.5
    return pd.DataFrame(
        {
            "income": np.where(rng.random(n) < 0.05, np.nan, income),
            "job": rng.choice(["clerk", "nurse", "smith"], n),
            "region": np.where(north, "north", "south"),
            "approved": np.where(approved, "yes", "no"),
        }
    )
