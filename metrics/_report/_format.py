"""Table cells as people and machines read them."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Cell(NamedTuple):
    """What is shown, and the number behind it in full precision ("" for words)."""

    text: str
    number: str
    is_numeric: bool
    is_header: bool


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its index as leading columns; a plain row count is dropped."""
    if header_width(frame) == 0:
        return frame
    named = frame.rename_axis(["" if name is None else str(name) for name in frame.index.names])
    return named.reset_index(allow_duplicates=True)


def header_width(frame: pd.DataFrame) -> int:
    """Return how many leading columns of `flat` name the row."""
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    return 0 if plain else frame.index.nlevels


def cells(frame: pd.DataFrame) -> list[list[Cell]]:
    """Return the rows of `flat`, formatted."""
    width = header_width(frame)
    rows = zip(*(column for _, column in flat(frame).items()), strict=True)
    return [[_cell(value, position < width) for position, value in enumerate(row)] for row in rows]


def numeric_columns(frame: pd.DataFrame) -> list[bool]:
    """Tell for each column of `flat` whether it holds numbers, for alignment."""
    return [
        pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        for _, column in flat(frame).items()
    ]


def plain(value: Any) -> Any:
    """Return what JSON can hold: NaN becomes None, infinity a word."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value if isinstance(value, bool | int | float) else str(value)


def format_number(value: float, decimals: int = 3) -> str:
    """Return a share or a p in words of one width; NaN is "n/a"."""
    return "n/a" if pd.isna(value) else f"{value:.{decimals}f}"


def _cell(value: Any, is_header: bool) -> Cell:
    value = plain(value)
    if value is None:
        return Cell("n/a", "", is_numeric=True, is_header=is_header)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "", is_numeric=False, is_header=is_header)
    if isinstance(value, int):
        return Cell(f"{value:,}", repr(value), is_numeric=True, is_header=is_header)
    if isinstance(value, float):
        return Cell(_decimals(value), repr(value), is_numeric=True, is_header=is_header)
    return Cell(value, "", is_numeric=False, is_header=is_header)


def _decimals(value: float) -> str:
    if 0 < abs(value) < 0.0005:  # three decimals would print a number that is not 0 as 0
        return f"{value:.0e}"
    return f"{value:,.3f}"
