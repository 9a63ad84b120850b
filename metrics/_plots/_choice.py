"""Which groups to draw when there are many."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST = 40  # groups in a picture

Floats = NDArray[np.float64]


def numbers(column: "pd.Series[float]") -> Floats:
    """Return a column's values, NaN where one is missing or infinite: it cannot be drawn."""
    values = column.to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def notable(values: Floats, sizes: Floats | None, most: int = MOST) -> NDArray[np.intp]:
    """Return the positions of at most `most` groups, by turns a lowest, a highest, a largest.

    Undefined values come last. Without `sizes`: by turns a lowest and a highest.
    """
    orders = [values, -values] if sizes is None else [values, -values, -sizes]
    ranks = [np.argsort(np.argsort(order, kind="stable"), kind="stable") for order in orders]
    return np.sort(np.argsort(np.min(ranks, axis=0), kind="stable")[:most])


def left_out(n_drawn: int, n_groups: int, *, has_sizes: bool, by: str = "") -> str:
    """Return the sentence that says which groups are drawn, "" if all are; `by`: lowest in what."""
    if n_drawn == n_groups:
        return ""
    which = "lowest, highest and largest" if has_sizes else "lowest and highest"
    what = f" (by {by})" if by else ""
    return (
        f"{n_drawn} of {n_groups:,} groups, the {which}{what}: {n_groups - n_drawn:,} are left out."
    )
