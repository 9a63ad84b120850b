"""Means of rows with intervals that hold for skewed rows too."""

import numpy as np

from ._bootstrap import row_replicates, studentized
from ._intervals import Interval
from ._rates import Floats, divide


def mean_intervals(
    values: Floats,
    weights: Floats | None,
    n_boot: int,
    rng: np.random.Generator,
    confidence: float,
) -> Interval:
    r"""Return the means of columns of rows, (M,), with bootstrap-t intervals.

    .. math:: \hat\sigma^2 = \sum_i w_i^2 (v_i - \bar v)^2 \Big/ \Big(\sum_i w_i\Big)^2

    A column without a negative value (an absolute or squared error, a loss) has its interval on the
    scale of logarithms, which keeps the bounds positive; the bounds of a root mean square are the
    roots of those of the mean square. NaN bounds with fewer than four rows, and where nothing
    varies.

    Coverage at 0.95 with 50 rows, for normal, Laplace and exponential errors: of the mean absolute
    error 0.95, 0.94, 0.93 (percentile interval: 0.95, 0.94, 0.92), of the root mean square 0.94,
    0.92, 0.90 (0.92, 0.88, 0.82); with 200 rows 0.93 to 0.95. Of log-normal errors it is 0.89 and
    0.82 with 50 rows, 0.94 and 0.88 with 200: no interval knows of a tail that the rows do not
    show.

    Args:
        values: Of each row, (N, M).
        weights: Of each row, (N,); None weighs all the same.
        n_boot: Replicates.
        rng: Source of the draws.
        confidence: In (0, 1).
    """
    n, m = values.shape
    if n == 0 or (weights is not None and not weights.any()):
        return Interval(*np.full((3, m), np.nan))
    centre = np.average(values, axis=0, weights=weights)
    rest = values - centre  # squares of large values would cancel
    if weights is None:
        moments = np.concatenate([rest, rest**2], axis=1)
    else:
        w = weights[:, None]
        each = [w, w**2, w * rest, w**2 * rest, w**2 * rest**2]
        moments = np.concatenate(each, axis=1)

    def mean_and_error(means: Floats) -> tuple[Floats, Floats]:
        if weights is None:
            off, square = means[..., :m], means[..., m:]
            return off + centre, np.sqrt(np.maximum(square - off**2, 0) / n)
        total, squared = means[..., :1], means[..., 1:2]
        off, twice, square = np.split(means[..., 2:], 3, axis=-1)
        off = divide(off, total)
        variance = np.maximum(square - 2 * off * twice + off**2 * squared, 0) / n
        return off + centre, divide(np.sqrt(variance), total)

    value, error = mean_and_error(moments.mean(0))
    drawn, errors = mean_and_error(row_replicates(moments, n_boot, rng))
    positive = (values >= 0).all(0) & (value > 0)
    plain = studentized(value, error, drawn, errors, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = studentized(np.log(value), error / value, np.log(drawn), errors / drawn, confidence)
    varies = error > 1e-12 * np.abs(centre)
    # With few rows a bound of the logarithms can be beyond all numbers: it is none.
    longest = np.log(np.finfo(np.float64).max)
    varies &= ~positive | (np.abs(logs.low) < longest) & (np.abs(logs.high) < longest)
    low, high = (np.exp(np.where(varies & positive, bound, 0)) for bound in logs[1:])
    return Interval(
        value,
        np.where(varies, np.where(positive, low, plain.low), np.nan),
        np.where(varies, np.where(positive, high, plain.high), np.nan),
    )
