"""The data of a comparison, checked and in one form. Shapes: N rows."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairclip.comparison._settings import Settings
from fairclip.comparison._source import Source
from fairclip.groups import GroupEncoder

# One row of every cell in each of the parts that hold a fifth of the rows.
MIN_CELL_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Table:
    """A data set with a binary target.

    Attributes:
        features: What the model sees: numbers as float64, everything else as text, ``(N, ...)``.
        y: The target as 0 and 1, ``(N,)``.
        classes: The target's values behind 0 and 1, in words.
        favourable: The one of them that is good for a person.
        sensitive: The sensitive columns as text, missing where unknown, ``(N, ...)``.
        cells: The code of each row's (group, label) cell; -1 where unknown, ``(N,)``.
    """

    features: pd.DataFrame
    y: NDArray[np.int64]
    classes: tuple[str, str]
    favourable: str
    sensitive: pd.DataFrame
    cells: NDArray[np.int64]


def make_table(source: Source, settings: Settings) -> Table:
    """Check the columns that ``settings`` name and bring them into one form.

    Raises:
        ValueError: If arms cannot be compared on them; the message says what to change.
    """
    frame = source.frame.reset_index(drop=True)
    _check_columns(frame, settings)
    y, classes = _binary(frame[settings.target], settings.positive)
    favourable = settings.favourable or classes[1]
    if favourable not in classes:
        raise ValueError(
            f"`favourable` must be one of {list(classes)}, the values of "
            f"`{settings.target}`; got {favourable!r}."
        )
    sensitive = _sensitive(frame, settings)
    pooled = _pool(sensitive, settings.pool_below)
    if _smallest_cell(pooled, y)[1] < MIN_CELL_ROWS:
        raise ValueError(_too_small(sensitive, pooled, y))
    return Table(
        features=_features(frame.drop(columns=_no_features(settings))),
        y=y,
        classes=classes,
        favourable=favourable,
        sensitive=pooled,
        cells=GroupEncoder(with_label=True).fit(pooled, y).transform(pooled, y),
    )


def _check_columns(frame: pd.DataFrame, settings: Settings) -> None:
    if not settings.target:
        raise ValueError("Name the column to predict: `target` (--target).")
    if not settings.sensitive:
        raise ValueError("Name the sensitive columns: `sensitive` (--sensitive).")
    columns = list(map(str, frame.columns))
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise ValueError(f"There is more than one column `{twice}`.")
    if frame.empty:
        raise ValueError("The table has no rows.")
    for name in (settings.target, *settings.sensitive, *settings.drop):
        if name not in columns:
            raise ValueError(f"There is no column `{name}`; there are {', '.join(columns)}.")
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
    values = [_word(value) for value in sorted(target.unique())]
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


def _pool(sensitive: pd.DataFrame, pool_below: int) -> pd.DataFrame:
    """Give groups with fewer than ``pool_below`` rows one name."""
    known = sensitive.dropna()
    sizes = _sizes(sensitive)
    small = sizes.index[sizes < pool_below]
    if small.empty:
        return sensitive
    kept = known.drop(small)
    if kept.empty:
        raise ValueError(f"Every group has fewer than {pool_below} rows: lower `pool_below`.")
    pooled = sensitive.copy()
    pooled.loc[small] = "other (pooled)" if kept.isin(["other"]).any(axis=None) else "other"
    return pooled


def _sizes(sensitive: pd.DataFrame) -> "pd.Series[int]":
    """Return the rows of each row's group; rows of no group are left out."""
    known = sensitive.dropna()
    return known.groupby([*sensitive])[sensitive.columns[0]].transform("size")


def _smallest_cell(sensitive: pd.DataFrame, y: NDArray[np.int64]) -> tuple[str, int]:
    known = sensitive.dropna()
    groups = GroupEncoder().fit(known)
    cells = 2 * groups.transform(known) + y[known.index]
    counts = np.bincount(cells, minlength=2 * len(groups.names_))
    least = int(counts.argmin())
    return f"{groups.names_[least // 2]}, y={least % 2}", int(counts[least])


def _too_small(sensitive: pd.DataFrame, pooled: pd.DataFrame, y: NDArray[np.int64]) -> str:
    """Name the cell that cannot be split, and the least ``pool_below`` that helps."""
    name, n_rows = _smallest_cell(pooled, y)
    remedy = "Leave its rows out or name fewer sensitive columns."
    for size in sorted(_sizes(sensitive).unique())[:-1]:
        if _smallest_cell(_pool(sensitive, size + 1), y)[1] >= MIN_CELL_ROWS:
            remedy = f"`pool_below={size + 1}` (--pool-below {size + 1}) merges the small groups."
            break
    return (
        f"The cell '{name}' has {n_rows} rows; the training, validation and test parts need "
        f"{MIN_CELL_ROWS} between them. {remedy}"
    )


def _no_features(settings: Settings) -> list[str]:
    kept_out = () if settings.keep_sensitive else settings.sensitive
    return list({settings.target, *settings.drop, *kept_out})


def _features(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.columns.empty:
        raise ValueError("No feature column is left beside target, sensitive columns and `drop`.")
    numbers = frame.select_dtypes("number").astype("float64")
    for name in numbers:
        if np.isinf(numbers[name]).any():
            raise ValueError(f"The column `{name}` has infinite values: replace or drop them.")
    return pd.concat([numbers, _words(frame.drop(columns=numbers.columns))], axis=1)
