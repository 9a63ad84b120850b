"""Sensitive features -> one integer code per row, and the groups' names."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._labels import check_length

_MAX_GROUPS = 10_000


@dataclass(frozen=True, slots=True)
class Groups:
    """K groups: every combination of the levels, as MetricFrame lists them."""

    codes: NDArray[np.int64]  # (N,), -1 = a sensitive feature is missing
    index: pd.Index  # (K,), a MultiIndex where there are several columns
    names: tuple[str, ...]  # (K,), "sex=female, race=black"


def encode_groups(
    sensitive_features: Any, n_rows: int, repeats: NDArray[np.int64] | None = None
) -> Groups:
    """Encode the rows; a row that lacks any of the features is unknown, never a group.

    `repeats` are the rows that each entry stands for, None for 1.
    """
    frame = feature_frame(sensitive_features)
    check_length(len(frame), n_rows, "sensitive_features")
    codes = np.zeros(n_rows, dtype=np.int64)
    unknown = np.zeros(n_rows, dtype=bool)
    levels: list[NDArray[Any]] = []
    for name, column in frame.items():
        column_codes, uniques = _factorize(column, str(name))
        known = column_codes >= 0
        n_known = int(known.sum() if repeats is None else repeats[known].sum())
        _check_levels(str(name), len(uniques), n_known)
        codes = codes * max(len(uniques), 1) + column_codes
        unknown |= column_codes < 0
        levels.append(np.asarray(uniques))
    if prod(map(len, levels)) > _MAX_GROUPS:
        raise ValueError(
            f"`sensitive_features` make {prod(map(len, levels)):,} combinations, more than "
            f"{_MAX_GROUPS:,}. Name fewer columns, or merge levels."
        )
    index = _index(levels, [str(name) for name in frame.columns])
    return Groups(np.where(unknown, -1, codes), index, _names(index))


def _factorize(column: "pd.Series[Any]", name: str) -> tuple[NDArray[np.int64], Any]:
    try:
        return pd.factorize(column, sort=True)
    except TypeError:
        raise TypeError(
            f"`sensitive_features` column {name!r} holds lists, or values of types that have no "
            "common order. Make them all strings."
        ) from None


def feature_frame(features: Any) -> pd.DataFrame:
    """Return the sensitive features as columns."""
    if isinstance(features, pd.DataFrame):
        frame = features
    elif isinstance(features, Mapping):
        columns = {name: np.asarray(column) for name, column in features.items()}
        if len({np.shape(column) for column in columns.values()}) > 1:
            shapes = {name: np.shape(column) for name, column in columns.items()}
            raise ValueError(f"`sensitive_features` must be columns of one length, got {shapes}.")
        frame = pd.DataFrame(columns)
    elif isinstance(features, pd.Series):
        frame = features.to_frame(features.name or "sensitive_feature_0")
    else:
        # To pandas as they are: numpy would turn NaN in a list into "nan", and lose a mask.
        array = features if isinstance(features, list | np.ma.MaskedArray) else np.asarray(features)
        if not isinstance(array, list) and array.ndim not in (1, 2):
            raise ValueError(
                "`sensitive_features` must have one value a row, or one column a feature, got "
                f"{type(features).__name__} of shape {array.shape}."
            )
        frame = pd.DataFrame(array)
        frame.columns = pd.Index([f"sensitive_feature_{i}" for i in range(frame.shape[1])])
    if frame.shape[1] == 0:
        raise ValueError("`sensitive_features` must have at least one column, got none.")
    names = [str(name) for name in frame.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"`sensitive_features` have the column {twice[0]!r} more than once. Rename one."
        )
    return frame


def _check_levels(name: str, n_levels: int, n_known: int) -> None:
    if n_levels == 0:
        raise ValueError(f"`sensitive_features` column {name!r} has no value in any row.")
    if n_levels > max(2, n_known / 2):
        raise ValueError(
            f"`sensitive_features` column {name!r} has {n_levels:,} values in {n_known:,} rows. "
            "Name a column that makes groups, or bin this one."
        )


def _index(levels: list[NDArray[Any]], names: list[str]) -> "pd.Index[Any]":
    if len(levels) > 1:
        return pd.MultiIndex.from_product(levels, names=names)
    index: pd.Index[Any] = pd.Index(levels[0], name=names[0])
    return index


def _names(index: pd.Index) -> tuple[str, ...]:
    rows = index.to_frame().itertuples(index=False)
    names = tuple(
        ", ".join(f"{name}={level}" for name, level in zip(index.names, row, strict=True))
        for row in rows
    )
    if len(set(names)) < len(names):
        raise ValueError("`sensitive_features` have values that print alike. Rename one of them.")
    return names
