"""Which arms no other arm beats."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def pareto_front(
    frame: pd.DataFrame, columns: Sequence[str] = ("accuracy", "worst_cell_accuracy")
) -> "pd.Series[bool]":
    r"""Mark the rows that no other row dominates: at least as high everywhere, higher somewhere.

    Equal rows are all in the front. A row with NaN in ``columns`` is not in it and dominates none.

    Args:
        frame: One row an arm.
        columns: What is compared, larger is better.

    Returns:
        True for the front, indexed as ``frame``.

    Raises:
        KeyError: If a column is missing.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import pareto_front
        >>> arms = pd.DataFrame({"accuracy": [0.9, 0.8, 0.7], "tpr": [0.5, 0.6, 0.6]})
        >>> pareto_front(arms, ["accuracy", "tpr"]).tolist()
        [True, True, False]
    """
    values = frame[list(columns)].to_numpy(np.float64)  # (N, M)
    at_least = (values[:, None] >= values[None]).all(2)  # [a, b]: a is nowhere below b
    higher = (values[:, None] > values[None]).any(2)
    dominated = (at_least & higher).any(0)
    return pd.Series(~dominated & ~np.isnan(values).any(1), index=frame.index, name="pareto")
