"""Three parts of the rows, and the inputs that a model sees. Shapes: N rows, d inputs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from fairclip.comparison._table import Table


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts; about 60, 20 and 20 % of every cell."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(table: Table, seed: int) -> Split:
    """Divide the rows, stratified by cell; rows of no group by label alone."""
    strata = np.where(table.cells < 0, -1 - table.y, table.cells)  # (N,)
    rows = np.random.default_rng(seed).permutation(len(strata))
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for stratum in np.unique(strata):
        members = rows[strata[rows] == stratum]
        n, fifth = len(members), len(members) // 5
        for part, some in zip(parts, np.split(members, [n - 2 * fifth, n - fifth]), strict=True):
            part.append(some)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def to_inputs(features: pd.DataFrame, train: NDArray[np.int64]) -> Tensor:
    """Return all rows as inputs ``(N, d)``; everything is learned from the training rows.

    Numbers are standardised, a missing one is the median and an extra column says so; words are
    one-hot, and those seldom or never seen in training share a column.
    """
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
    )
    words = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=10,
        max_categories=50,
        sparse_output=False,
    )
    transformer = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("words", words, make_column_selector(dtype_exclude="number")),
        ]
    )
    transformer.fit(features.iloc[train])
    return torch.from_numpy(transformer.transform(features).astype(np.float32))
