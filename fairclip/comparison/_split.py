"""Three parts of the rows, and the inputs that a model sees. Shapes: N rows, d inputs."""

import warnings
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

from fairclip.comparison._errors import RunError
from fairclip.comparison._table import Table
from fairclip.exceptions import FairclipWarning

# Words with fewer training rows share one input.
_MIN_ROWS = 10


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

    Warns:
        FairclipWarning: If all words of a column are seldom.

    Raises:
        RunError: If a number is too large for float32.
    """
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
    )
    words = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=_MIN_ROWS,
        max_categories=50,
        sparse_output=False,
    )
    transformer = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("words", words, make_column_selector(dtype_exclude="number")),
        ]
    )
    _warn_of_rare_words(features.iloc[train])
    transformer.fit(features.iloc[train])
    with np.errstate(over="ignore"):  # said below, with the column's name
        inputs = transformer.transform(features).astype(np.float32)
    finite = np.isfinite(inputs).all(axis=0)  # (d,)
    if not finite.all():
        name = transformer.get_feature_names_out()[finite.argmin()].partition("__")[2]
        raise RunError(f"The column `{name}` has values too large: rescale or `drop` it (--drop).")
    return torch.from_numpy(inputs)


def to_pixels(features: pd.DataFrame, train: NDArray[np.int64]) -> Tensor:
    """Return all rows as images ``(N, d)``, whose pixels keep their contrast to their neighbours.

    All pixels share one mean and one standard deviation, those of the training rows.
    """
    pixels = features.to_numpy(np.float64)
    spread = pixels[train].std() or 1.0  # all pixels can be equal
    return torch.from_numpy((pixels - pixels[train].mean()) / spread).float()


def _warn_of_rare_words(features: pd.DataFrame) -> None:
    for name, words in features.select_dtypes(exclude="number").items():
        if words.value_counts(dropna=False).max() < _MIN_ROWS:
            warnings.warn(
                f"The column `{name}` tells the model nothing: none of its values has "
                f"{_MIN_ROWS} training rows. Put them into bands, turn dates into numbers, or "
                "`drop` it (--drop).",
                FairclipWarning,
                stacklevel=3,
            )
