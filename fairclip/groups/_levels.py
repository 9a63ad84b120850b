"""The user's columns as text levels. Shapes: N rows."""

from typing import Any

import numpy as np
import pandas as pd


def as_frame(values: Any, prefix: str) -> tuple[pd.DataFrame, bool]:
    """Return the columns as a DataFrame, and whether the caller named them.

    Unnamed columns become ``prefix_0``, ``prefix_1``, ... as in fairlearn. The index is dropped:
    rows are matched by position.
    """
    if not isinstance(values, pd.Series | pd.DataFrame):
        values = _from_polars(values)
    if isinstance(values, pd.Series) and values.name is not None:
        values = values.to_frame()
    if isinstance(values, pd.DataFrame):
        frame = values.rename(columns=str).reset_index(drop=True)
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise ValueError(f"The column {twice[0]!r} is there twice; rename one.")
        return frame, True
    # A list goes in as it is: numpy would turn the NaN of ["a", nan] into the text "nan".
    frame = pd.DataFrame(values if isinstance(values, list) else np.asarray(values))
    return frame.set_axis([f"{prefix}_{i}" for i in range(frame.shape[1])], axis=1), False


def _from_polars(values: Any) -> Any:
    """Return a table or column as polars has them as one of pandas, anything else as it is."""
    names = getattr(values, "columns", None)
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return pd.DataFrame({name: np.asarray(values[name]) for name in names})
    if isinstance(name := getattr(values, "name", None), str) and name:
        return pd.Series(np.asarray(values), name=name)
    return values


def as_levels(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns with every value as text, and None where it is missing."""
    return pd.DataFrame({name: _as_text(frame[name]) for name in frame}, index=frame.index)


def _as_text(column: "pd.Series[Any]") -> "pd.Series[Any]":
    codes, values = pd.factorize(column)
    texts = np.array([*map(_text, values), None], dtype=object)
    return pd.Series(texts[codes], index=column.index, dtype=object)  # code -1 is the last: None


def _text(value: Any) -> str:
    # A missing cell turns a column of integers into floats: 1.0 is the level 1 all the same.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
