"""Labels and predictions of any type -> codes, or floats in a regression."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MAX_LABELS = 100


def find_task(y_true: "pd.Series[Any]", predictions: Sequence["pd.Series[Any]"], task: str) -> str:
    """Return "binary", "multiclass" or "regression"; "auto" goes by the values of `y_true`."""
    if task in ("binary", "multiclass", "regression"):
        return task
    if task != "auto":
        raise ValueError(f"`task` must be auto, binary, multiclass or regression, got {task!r}.")
    if _has_fractions(y_true):
        return "regression"
    if y_true.nunique() <= 2:
        return "binary"
    if any(map(_has_fractions, predictions)):
        raise ValueError(
            '`y_true` holds whole numbers and a prediction others: pass task="regression".'
        )
    return "multiclass"


def _has_fractions(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_float_dtype(column) and bool((column % 1 != 0).any())


def binary_values(y_true: "pd.Series[Any]", favourable: Any = None) -> tuple[Any, Any]:
    """Return (other, favourable); `favourable` None means the greater, as in scikit-learn."""
    found = [plain_label(value) for value in y_true.unique()]
    values = [0, 1] if set(found) <= {0, 1} else found
    if len(values) != 2:
        listed = ", ".join(map(repr, found[:5]))
        raise ValueError(
            f"`y_true` must hold two values, got {len(found)}: {listed}. Make one of them the "
            'favourable outcome and the rest the other, or pass task="multiclass".'
        )
    favourable = _sorted(values)[1] if favourable is None else plain_label(favourable)
    if favourable not in values:
        raise ValueError(f"`favourable` must be one of {values}, got {favourable!r}.")
    other = values[0] if values[1] == favourable else values[1]
    return other, favourable


def class_values(columns: Sequence["pd.Series[Any]"]) -> tuple[Any, ...]:
    """Return every label that occurs, in ascending order."""
    found = {plain_label(value) for column in columns for value in column.unique()}
    if len(found) > _MAX_LABELS:
        raise ValueError(
            f"`y_true` and the predictions hold {len(found):,} labels, more than {_MAX_LABELS}. "
            'Merge labels, or pass task="regression" where they are numbers.'
        )
    return tuple(_sorted(found))


def encode_labels(
    column: "pd.Series[Any]", values: tuple[Any, ...], name: str
) -> NDArray[np.int64]:
    """Return the position of each label in `values`, (N,)."""
    codes, uniques = pd.factorize(column)
    position = {value: code for code, value in enumerate(values)}
    of_unique = np.array([position.get(plain_label(value), -1) for value in uniques])
    if (of_unique < 0).any():
        strange = plain_label(uniques[int(of_unique.argmin())])
        listed = ", ".join(map(repr, values))
        raise ValueError(
            f"`{name}` must hold values of `y_true` ({listed}), got {strange!r}. Scores belong in "
            '`y_score`; for more labels than two pass task="multiclass".'
        )
    encoded: NDArray[np.int64] = of_unique.astype(np.int64)[codes]
    return encoded


def floats(values: Any, n_rows: int, name: str) -> NDArray[np.float64]:
    """Return a column of finite numbers, (N,)."""
    column = as_column(values, name)
    check_length(len(column), n_rows, name)
    try:
        if column.dtype.kind in "cmM":  # numpy would drop an imaginary part, or count nanoseconds
            raise TypeError
        numbers = column.to_numpy(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must hold numbers, got {column.iloc[0]!r}, ... .") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"`{name}` must be finite, got {numbers[~np.isfinite(numbers)][0]}.")
    return numbers


def check_length(found: int, expected: int, name: str) -> None:
    """Raise where a column is not as long as `y_true`."""
    if found != expected:
        raise ValueError(f"`{name}` must have one value for each of {expected} rows, got {found}.")


def as_column(values: Any, name: str) -> "pd.Series[Any]":
    """Return the values as a column without index; one at least, none missing."""
    if isinstance(values, pd.Series):
        column = values.reset_index(drop=True)
    else:
        # To pandas as they are: numpy would lose a mask.
        as_is = isinstance(values, list | tuple | pd.DataFrame | np.ma.MaskedArray)
        array = values if as_is else np.asarray(values)
        if isinstance(array, np.ndarray) and array.ndim not in (1, 2):
            raise ValueError(
                f"`{name}` must be a column, got {type(values).__name__} of shape {array.shape}."
            )
        frame = pd.DataFrame(array)
        if frame.shape[1] != 1 and frame.size:
            raise ValueError(f"`{name}` must be a column, got the shape {np.shape(array)}.")
        column = frame.iloc[:, 0].reset_index(drop=True) if frame.size else pd.Series()
    if column.empty:
        raise ValueError(f"`{name}` must be a column with at least one row, got none.")
    if missing := int(column.isna().sum()):
        raise ValueError(f"`{name}` has {missing} missing values. Drop these rows first.")
    if column.dtype == object and pd.api.types.is_list_like(column.iloc[0]):
        raise TypeError(
            f"`{name}` must hold labels or numbers, got {column.iloc[0]!r}. Name one for each row."
        )
    return column


def plain_label(value: Any) -> Any:
    """Return a label as Python has it; 1.0 and True are 1."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def _sorted(values: Any) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        raise ValueError(
            f"`y_true` mixes labels of several types: {', '.join(map(repr, list(values)[:5]))}. "
            "Make them all strings, or all numbers."
        ) from None
