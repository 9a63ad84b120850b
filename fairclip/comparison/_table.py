"""The data of a comparison, checked and in one form. Shapes: N rows."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairclip.comparison._pooling import check_cells, pool
from fairclip.comparison._settings import Settings
from fairclip.comparison._source import Source
from fairclip.groups import GroupEncoder

# Beside the sensitive columns in the files of predictions, and beside them in the names of cells.
_PREDICTIONS = {"y_true", "y_pred", "y_score", "y"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A data set with a binary target.

    Attributes:
        features: What the model sees: numbers as float64, everything else as text, ``(N, ...)``.
        y: The target as 0 and 1, ``(N,)``.
        classes: The target's values behind 0 and 1, in words.
        favourable: The one of them that is good for a person.
        sensitive: The sensitive columns as text, missing where unknown, ``(N, ...)``.
        groups: The code of each row's group; -1 where unknown, ``(N,)``.
        cells: The code of each row's (group, label) cell; -1 where unknown, ``(N,)``.
    """

    features: pd.DataFrame
    y: NDArray[np.int64]
    classes: tuple[str, str]
    favourable: str
    sensitive: pd.DataFrame
    groups: NDArray[np.int64]
    cells: NDArray[np.int64]


def make_table(source: Source, settings: Settings) -> Table:
    """Check the columns that ``settings`` name and bring them into one form.

    Raises:
        ValueError: If arms cannot be compared on them; the message says what to change.
    """
    frame = source.frame.reset_index(drop=True).rename(columns=str)
    _check_columns(frame, settings)
    y, classes = _binary(frame[settings.target], settings.positive)
    favourable = settings.favourable or classes[1]
    if favourable not in classes:
        raise ValueError(
            f"`favourable` must be one of {list(classes)}, the values of "
            f"`{settings.target}`; got {favourable!r}."
        )
    sensitive = _sensitive(frame, settings)
    pooled = pool(sensitive, settings.pool_below)
    check_cells(sensitive, pooled, y)
    features = _features(frame.drop(columns=_no_features(settings)))
    if settings.model == "cnn":
        _check_pixels(features)
    return Table(
        features=features,
        y=y,
        classes=classes,
        favourable=favourable,
        sensitive=pooled,
        groups=encode(GroupEncoder().fit(pooled), pooled, y),
        cells=encode(GroupEncoder(with_label=True).fit(pooled, y), pooled, y),
    )


def encode(
    encoder: GroupEncoder, sensitive: pd.DataFrame, y: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the codes of the rows; -1 without a warning where a sensitive value is missing.

    The figures by group come with that note.
    """
    known = sensitive.notna().to_numpy().all(axis=1)
    codes = np.full(len(sensitive), -1)
    codes[known] = encoder.transform(sensitive[known], y[known])
    return codes


def _check_columns(frame: pd.DataFrame, settings: Settings) -> None:
    if not settings.target:
        raise ValueError("Name the column to predict: `target` (--target).")
    if not settings.sensitive:
        raise ValueError("Name the sensitive columns: `sensitive` (--sensitive).")
    columns = list(frame.columns)
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise ValueError(f"There is more than one column `{twice}`.")
    if frame.empty:
        raise ValueError("The table has no rows.")
    for name in (settings.target, *settings.sensitive, *settings.drop):
        if name not in columns:
            raise ValueError(f"There is no column `{name}`; there are {', '.join(columns)}.")
    if taken := _PREDICTIONS.intersection(settings.sensitive):
        raise ValueError(f"A sensitive column cannot be called `{taken.pop()}`: rename it.")
    if settings.target in settings.sensitive:
        raise ValueError(f"`{settings.target}` cannot be both the target and sensitive.")


def _word(value: object) -> str:
    """Return a value as its user would type it: 1.0 as ``1``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _words(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).where(frame.notna(), None).map(_word, na_action="ignore")


def _binary(target: pd.Series, positive: str | None) -> tuple[NDArray[np.int64], tuple[str, str]]:
    n_missing = int(target.isna().sum())
    if n_missing:
        raise ValueError(
            f"The target `{target.name}` is missing in {n_missing} rows: fill or remove them."
        )
    # By type first: a file can hold 1 and "yes" in one column.
    values = [_word(v) for v in sorted(target.unique(), key=lambda v: (str(type(v)), v))]
    listed = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
    if len(values) < 2:
        raise ValueError(f"The target `{target.name}` has one class only: {listed}.")
    if positive is None and len(values) > 2:
        raise ValueError(
            f"The target `{target.name}` has {len(values)} values ({listed}): "
            "name the one to predict with `positive` (--positive)."
        )
    positive = positive or values[1]
    if positive not in values:
        raise ValueError(
            f"`positive` must be a value of `{target.name}` ({listed}), got {positive!r}."
        )
    others = [value for value in values if value != positive]
    negative = others[0] if len(others) == 1 else f"not {positive}"
    return np.asarray(target.map(_word) == positive, dtype=np.int64), (negative, positive)


def _sensitive(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    sensitive = _words(frame[list(settings.sensitive)])
    for name in sensitive:
        n_levels, n_known = sensitive[name].nunique(), int(sensitive[name].notna().sum())
        if n_levels > max(2, n_known / 2):
            raise ValueError(
                f"The sensitive column `{name}` has {n_levels} different values in {n_known} "
                "rows: put them into a few bands first."
            )
    if len(sensitive.dropna().drop_duplicates()) < 2:
        raise ValueError(
            f"The sensitive columns {', '.join(settings.sensitive)} make fewer than two groups."
        )
    return sensitive


def _no_features(settings: Settings) -> list[str]:
    kept_out = () if settings.keep_sensitive else settings.sensitive
    return list({settings.target, *settings.drop, *kept_out})


def _features(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.columns.empty:
        raise ValueError("No feature column is left beside target, sensitive columns and `drop`.")
    for name in frame.select_dtypes(["datetime", "datetimetz", "timedelta"]):
        raise ValueError(
            f"The column `{name}` holds dates or durations: turn it into a number, such as days, "
            "or `drop` it (--drop)."
        )
    numbers = frame.select_dtypes("number").astype("float64")
    for name in numbers:
        if np.isinf(numbers[name]).any():
            raise ValueError(f"The column `{name}` has infinite values: replace or drop them.")
        if numbers[name].abs().max() > np.finfo(np.float32).max:
            raise ValueError(
                f"The column `{name}` has values too large: rescale or `drop` it (--drop)."
            )
    return pd.concat([numbers, _words(frame.drop(columns=numbers.columns))], axis=1)


def _check_pixels(features: pd.DataFrame) -> None:
    n_columns, n_numbers = features.shape[1], features.select_dtypes("number").shape[1]
    if (
        math.isqrt(n_columns) ** 2 != n_columns
        or n_numbers < n_columns
        or features.isna().any(axis=None)
    ):
        raise ValueError(
            "`model='cnn'` (--model cnn) needs columns that are the pixels of a square image: got "
            f"{n_columns} columns, of them {n_numbers} numbers and "
            f"{int(features.isna().any().sum())} with missing values. Use mlp, or `drop` what is "
            "no pixel (--drop)."
        )
