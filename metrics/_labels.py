"""Two label values of any type -> 0 and 1."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as 0 and 1, and the values that these stand for."""

    codes: NDArray[np.int64]  # (N,), 1 = favourable
    values: tuple[Any, Any]  # (the other value, the favourable value)


def encode_labels(y_true: Any, favourable: Any = None) -> Labels:
    """Encode `y_true`; `favourable` None means the greater value, as in scikit-learn."""
    column = _column(y_true, "y_true")
    found = [_plain(value) for value in column.unique()]
    values = [0, 1] if set(found) <= {0, 1} else found
    if len(values) != 2:
        listed = ", ".join(map(repr, found[:5]))
        raise ValueError(
            f"`y_true` must hold two values, got {len(found)}: {listed}. Make one of them the "
            "favourable outcome and the rest the other."
        )
    if favourable is None:
        favourable = max(values)
    if favourable not in values:
        raise ValueError(f"`favourable` must be one of {values}, got {favourable!r}.")
    other = values[0] if values[1] == favourable else values[1]
    return Labels((column == favourable).to_numpy(np.int64), (other, favourable))


def encode_predictions(y_pred: Any, labels: Labels, name: str = "y_pred") -> NDArray[np.int64]:
    """Encode predictions with the values of `labels`."""
    column = _column(y_pred, name)
    check_length(len(column), len(labels.codes), name)
    other, favourable = labels.values
    positive = column == favourable
    strange = column[~(positive | (column == other))]
    if len(strange):
        raise ValueError(
            f"`{name}` must hold values of `y_true` ({other!r}, {favourable!r}), got "
            f"{_plain(strange.iloc[0])!r}. Scores belong in `y_score`."
        )
    codes: NDArray[np.int64] = positive.to_numpy(np.int64)
    return codes


def encode_scores(y_score: Any, n_rows: int, name: str = "y_score") -> NDArray[np.float64]:
    """Return the scores as floats, one a row."""
    scores = _column(y_score, name).to_numpy(np.float64)
    check_length(len(scores), n_rows, name)
    return scores


def check_length(found: int, expected: int, name: str) -> None:
    """Raise where a column is not as long as `y_true`."""
    if found != expected:
        raise ValueError(f"`{name}` must have one value for each of {expected} rows, got {found}.")


def _column(values: Any, name: str) -> "pd.Series[Any]":
    array = values if isinstance(values, list | tuple) else np.asarray(values)
    frame = pd.DataFrame(array)
    if frame.shape[1] != 1 or frame.empty:
        raise ValueError(f"`{name}` must be a column with at least one row, got {np.shape(array)}.")
    column = frame.iloc[:, 0]
    if missing := int(column.isna().sum()):
        raise ValueError(f"`{name}` has {missing} missing values. Drop these rows first.")
    return column


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
