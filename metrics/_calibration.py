"""How often the label comes where the score says so: bins of ten equal widths."""

import numpy as np
import pandas as pd

from ._intervals import wilson
from ._rates import Floats, Ints, divide
from ._sizes import effective_size

_N_BINS = 10


def calibration_error(truth: Ints, scores: Floats, weights: Floats) -> float:
    r"""Return the mean distance of score and label over the bins, NaN without rows.

    .. math:: \text{ECE} = \sum_b \tfrac{W_b}{W} \, | \bar s_b - \bar y_b |
    """
    if len(truth) == 0:
        return float("nan")
    bins = _bins(scores)
    distance = np.bincount(bins, weights=weights * (scores - truth), minlength=_N_BINS)
    return float(divide(np.abs(distance).sum(), weights.sum()))


def calibration_frame(truth: Ints, scores: Floats, weights: Floats, z: float) -> pd.DataFrame:
    """Return one row a bin: rows, mean score, share of the label 1 with Wilson's interval."""
    bins = _bins(scores)

    def sums(each: Floats) -> Floats:
        return np.bincount(bins, each, _N_BINS).astype(np.float64)

    total = sums(weights)
    right, squares = sums(weights * truth), (sums(weights**2 * truth), sums(weights**2))
    observed = wilson(right, total, z, effective_size(right, total, *squares))
    return pd.DataFrame(
        {
            "n": np.bincount(bins, minlength=_N_BINS),
            "mean_score": divide(sums(weights * scores), total),
            "observed": observed.value,
            "low": observed.low,
            "high": observed.high,
        },
        index=pd.RangeIndex(1, _N_BINS + 1, name="bin"),
    )


def _bins(scores: Floats) -> Ints:
    return np.minimum((scores * _N_BINS).astype(np.int64), _N_BINS - 1)
