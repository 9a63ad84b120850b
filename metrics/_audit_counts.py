"""The audit of rows that were counted elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._assess import audit_rows
from ._audit import Audit
from ._cell_counts import CellCounts
from ._exceptions import MetricsWarning
from ._flags import flag_unknown
from ._named import Metric, find_metrics
from ._options import Options
from ._rows import encode_rows


def audit_counts(
    counts: pd.DataFrame | CellCounts,
    *,
    y_true: str = "y_true",
    y_pred: str = "y_pred",
    n: str = "n",
    task: str = "auto",
    metrics: str | Iterable[str] | Mapping[str, Metric] = (),
    favourable: Any = None,
    reference: str | None = None,
    confidence: float = 0.95,
    n_boot: int = 10_000,
    min_group_size: int = 30,
    random_state: int = 0,
) -> Audit:
    """Audit rows of which only the number in each (group, label, prediction) cell is known.

    The figures are those of `audit` on the rows, to the last digit: rates, intervals and
    permutation p need no more than the counts. Their cost does not depend on the number of rows.

    Args:
        counts: `CellCounts`, or a table with one row a cell, such as the result of
            ``SELECT sex, y_true, y_pred, COUNT(*) AS n ... GROUP BY ALL`` in any engine. Every
            column that is not named below is a sensitive feature; cells may occur more than once.
        y_true: Column of the labels.
        y_pred: Column of the predictions.
        n: Column of the number of rows, whole numbers of 0 or more.
        task: As in `audit`; there are no counts of a regression.
        metrics: As in `audit`, of functions that take ``sample_weight``.
        favourable: As in `audit`.
        reference: As in `audit`.
        confidence: As in `audit`.
        n_boot: As in `audit`.
        min_group_size: As in `audit`.
        random_state: As in `audit`.

    Returns:
        An `Audit`.

    Raises:
        ValueError: On input that `audit` refuses, if a column is missing, there is no sensitive
            feature, or counts are not whole, negative, or all 0.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import audit_counts
        >>> counts = pd.DataFrame(
        ...     {"sex": ["f", "f", "m"], "y": [1, 1, 1], "y_hat": [1, 0, 1], "n": [60, 40, 900]}
        ... )
        >>> audit_counts(counts, y_true="y", y_pred="y_hat").by_group["tpr"].to_dict()
        {'f': 0.6, 'm': 1.0}
    """
    options = Options(reference, confidence, n_boot, min_group_size, random_state)
    if isinstance(counts, CellCounts):
        counts = counts.to_frame()
    named = [y_true, y_pred, n]
    for name in named:
        if list(counts.columns).count(name) != 1:
            raise ValueError(f"`counts` must have one column {name!r}, has {list(counts.columns)}.")
    repeats = _whole(counts[n], n)
    counts, repeats = counts[repeats > 0], repeats[repeats > 0]
    rows = encode_rows(
        counts[y_true],
        {"y_pred": counts[y_pred]},
        counts.drop(columns=named),
        task=task,
        favourable=favourable,
        repeats=repeats,
    )
    if rows.task == "regression":
        raise ValueError("`counts` are of labels; pass the rows of a regression to `audit`.")
    for message in flag_unknown(rows.n_unknown, rows.n_rows):
        warn(message, MetricsWarning, stacklevel=2)
    return audit_rows(rows, rows.predictions["y_pred"], None, find_metrics(metrics), options)


def _whole(column: "pd.Series[Any]", name: str) -> NDArray[np.int64]:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if not ((numbers >= 0) & (numbers == np.floor(numbers)) & np.isfinite(numbers)).all():
        raise ValueError(f"`counts` column {name!r} must hold whole numbers of 0 or more.")
    if not numbers.any():
        raise ValueError(f"`counts` column {name!r} is 0 in every row.")
    return numbers.astype(np.int64)
