"""Groups that are too small to be divided into parts. Shapes: N rows."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairclip.groups import GroupEncoder

# One row of every cell in each of the parts that hold a fifth of the rows.
_MIN_CELL_ROWS = 5


def pool(sensitive: pd.DataFrame, pool_below: int) -> pd.DataFrame:
    """Give groups with fewer than ``pool_below`` rows one name.

    Raises:
        ValueError: If that is every group.
    """
    sizes = _sizes(sensitive)
    small = sizes.index[sizes < pool_below]
    if small.empty:
        return sensitive
    kept = sensitive.dropna().drop(small)
    if kept.empty:
        raise ValueError(f"Every group has fewer than {pool_below} rows: lower `pool_below`.")
    pooled = sensitive.copy()
    pooled.loc[small] = "other (pooled)" if kept.isin(["other"]).any(axis=None) else "other"
    return pooled


def check_cells(sensitive: pd.DataFrame, pooled: pd.DataFrame, y: NDArray[np.int64]) -> None:
    """Check that every cell of ``pooled`` has a row for each part.

    Raises:
        ValueError: If not; names the cell, and the least ``pool_below`` that helps.
    """
    name, n_rows = _smallest_cell(pooled, y)
    if n_rows >= _MIN_CELL_ROWS:
        return
    remedy = "Leave its rows out or name fewer sensitive columns."
    for size in sorted(_sizes(sensitive).unique())[:-1]:
        if _smallest_cell(pool(sensitive, size + 1), y)[1] >= _MIN_CELL_ROWS:
            remedy = f"`pool_below={size + 1}` (--pool-below {size + 1}) merges the small groups."
            break
    raise ValueError(
        f"The cell '{name}' has {n_rows} rows; the training, validation and test parts need "
        f"{_MIN_CELL_ROWS} between them. {remedy}"
    )


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
