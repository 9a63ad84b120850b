"""Means of rows with intervals that hold for skewed rows too."""

import numpy as np

from ._bootstrap import row_replicates, studentized
from ._intervals import Interval, student
from ._rates import Floats, divide

_MIN_DRAWN = 15  # rows, weighted ones by their worth; of fewer the drawn errors come close to 0


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
    roots of those of the mean square. NaN bounds with fewer than two rows, and where nothing
    varies; NaN without weight.

    Coverage at 0.95 with 50 rows, for normal, Laplace and exponential errors: of the mean absolute
    error 0.95, 0.94, 0.93 (percentile interval: 0.95, 0.94, 0.92), of the root mean square 0.94,
    0.92, 0.90 (0.92, 0.88, 0.82); with 200 rows 0.93 to 0.95. Of log-normal errors it is 0.89 and
    0.82 with 50 rows, 0.94 and 0.88 with 200: no interval knows of a tail that the rows do not
    show. Below 15 rows the interval is Student's: drawing covers no more often, and one upper bound
    in a hundred is 5 to 25 times the mean with 10 rows and beyond all use with 4.

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

    worth = np.asarray(n if weights is None else weights.sum() ** 2 / (weights**2).sum())
    value, error = mean_and_error(moments.mean(0))
    positive = (values >= 0).all(0) & (value > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if worth < _MIN_DRAWN:
            half = student(confidence, worth - 1) * error * np.sqrt(divide(worth, worth - 1))
            plain = Interval(value, value - half, value + half)
            factor = np.exp(half / value)
            scaled = Interval(value, value / factor, value * factor)
        else:
            drawn, errors = mean_and_error(row_replicates(moments, n_boot, rng))
            plain = studentized(value, error, drawn, errors, confidence)
            logs = np.log(value), error / value, np.log(drawn), errors / drawn
            scaled = Interval(*(np.exp(part) for part in studentized(*logs, confidence)))
    low, high = np.where(positive, scaled[1:], plain[1:])
    # Draws that hardly vary give a bound beyond all numbers: it is none.
    known = (error > 1e-12 * np.abs(centre)) & (high < np.inf)
    return Interval(value, np.where(known, low, np.nan), np.where(known, high, np.nan))
