"""Small problems that are planted: what a right answer is, is known."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor


class Problem(NamedTuple):
    X: NDArray[np.float32]  # (N, 4)
    y: NDArray[np.int64]  # (N,)
    sex: pd.Series  # (N,)


def planted(n_rows: int = 400, seed: int = 0) -> Problem:
    """Men follow the first column, women (one row in four) its opposite."""
    rng = np.random.default_rng(seed)
    sex = np.where(rng.random(n_rows) < 0.25, "female", "male")
    X = rng.normal(size=(n_rows, 4)).astype(np.float32)
    X[:, 3] = sex == "female"
    signal = np.where(sex == "female", -1, 1) * X[:, 0]
    y = (signal + 0.3 * rng.normal(size=n_rows) > 0).astype(np.int64)
    return Problem(X, y, pd.Series(sex, name="sex"))


def row_products(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that is worked by hand: the output times the target."""
    return outputs.squeeze(1) * targets


def one_weight(value: float = 1.0) -> torch.nn.Linear:
    """A model with one parameter: row x goes to ``value`` times x."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model
