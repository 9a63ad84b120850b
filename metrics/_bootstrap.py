"""Draws of cells and of rows, and the intervals that they give.

Only of what is smooth in the data: a share, a mean, a difference of two. Never of a minimum, a
maximum or an absolute gap: it is largest in samples that overstate it, every draw overstates it
again, and the interval covers 0-60 % of the time.
"""

import numpy as np

from ._intervals import Interval
from ._rates import Floats, divide

_MAX_DRAWN = 2_000  # rows that are drawn one by one; the means of more are drawn from their limit
_BLOCK = 200_000  # rows drawn at a time, so that they stay in the processor's cache
_MAX_UNDEFINED = 0.05  # share of replicates


def cell_replicates(
    counts: Floats,
    n_boot: int,
    rng: np.random.Generator,
    *,
    squares: Floats | None = None,
) -> Floats:
    r"""Draw the rows of each cell anew, which costs the same however many rows there are.

    .. math:: X^* = s \, M, \quad M \sim \operatorname{Multinomial}(\textstyle\sum_c k_c, \; k),
        \quad k_c = S_c / s_c, \quad s_c = Q_c / S_c

    One multinomial for each leading entry, rows of weight 1 as they are. Weighted rows are drawn as
    the k_c rows of weight s_c that vary as much, so that whatever does not change with the scale of
    the weights varies as if the rows had been drawn.

    Args:
        counts: Rows, or sums of weights S_c, of each cell, (..., cells).
        n_boot: Replicates.
        rng: Source of the draws.
        squares: Sums of squared weights Q_c, (..., cells); None for rows of weight 1.

    Returns:
        Replicates in the units of `counts`, (n_boot, ..., cells).
    """
    counts = np.asarray(counts, dtype=np.float64)
    weight = divide(counts if squares is None else squares, counts)  # of a drawn row
    rows = np.nan_to_num(divide(counts, weight))
    size = rows.sum(-1, keepdims=True)
    shares = np.nan_to_num(divide(rows, size))
    n = np.rint(size[..., 0]).astype(np.int64)
    drawn = rng.multinomial(n, shares, size=(n_boot, *n.shape))
    return np.asarray(drawn * np.nan_to_num(weight), dtype=np.float64)


def row_replicates(moments: Floats, n_boot: int, rng: np.random.Generator) -> Floats:
    """Return the means of rows drawn with replacement, (n_boot, M), from moments (N, M).

    Beyond 2,000 rows they are drawn from their limit, the normal distribution with the covariance
    of the rows, so that 10 million rows cost no more. There the bounds of a mean differ from those
    of drawn rows by 1 % of the interval's length for the absolute errors of a Laplace distribution,
    by 4 % for squared exponential ones. NaN without rows.
    """
    n, m = moments.shape
    if n == 0:
        return np.full((n_boot, m), np.nan)
    if n > _MAX_DRAWN:
        return _limit(moments, n_boot, rng)
    blocks = []
    step = max(1, _BLOCK // n)
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        blocks.append(times @ moments / n)
    return np.concatenate(blocks)


def percentile(
    estimate: Floats, replicates: Floats, confidence: float, n_rows: Floats | float
) -> Interval:
    r"""Return the expanded percentile interval of estimates (...) from replicates (n_boot, ...).

    .. math:: \text{tail} = \Phi\bigl(-\sqrt{n / (n - 1)} \; t_{(1 + c) / 2, \, n - 1}\bigr)

    Undefined replicates are left out if they are 5 % at most. NaN bounds where they are more, with
    fewer than two rows, and where nothing varies. The bounds hold the estimate.

    Args:
        estimate: Of the rows as they are.
        replicates: Of drawn rows.
        confidence: c, in (0, 1).
        n_rows: Rows behind the estimate, (...); of a mean over labels the rows of the rarest one.

    Source:
        T. Hesterberg (2015), What Teachers Should Know About the Bootstrap,
        https://doi.org/10.1080/00031305.2015.1089789, section 5.2: the plain percentile interval is
        too narrow by the factor that turns n - 1 into n and Student's t into the normal.
    """
    from scipy.special import ndtr, stdtrit

    n = np.where(np.asarray(n_rows) >= 2, n_rows, np.nan)
    tail = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - confidence) / 2))
    low, high = _ranked(replicates, tail)
    unknown = np.isnan(estimate) | (high - low <= 1e-12 * np.abs(high))
    return Interval(
        np.asarray(estimate),
        np.where(unknown, np.nan, np.minimum(low, estimate)),
        np.where(unknown, np.nan, np.maximum(high, estimate)),
    )


def studentized(
    estimate: Floats, error: Floats, replicates: Floats, errors: Floats, confidence: float
) -> Interval:
    r"""Return the bootstrap-t interval of estimates (...) from replicates (n_boot, ...).

    .. math:: [\hat\theta - \hat\sigma \, t^*_{(1 + c) / 2}, \;
        \hat\theta - \hat\sigma \, t^*_{(1 - c) / 2}], \qquad
        t^* = (\theta^* - \hat\theta) / \sigma^*

    For means of skewed rows, of which a percentile interval falls short on the long side. NaN
    bounds where the percentile interval has them, and where the rows have no error.

    Args:
        estimate: Of the rows as they are.
        error: Its standard error, (...).
        replicates: Of drawn rows.
        errors: The standard error that the drawn rows give, (n_boot, ...).
        confidence: c, in (0, 1).

    Source:
        B. Efron (1981), https://doi.org/10.2307/3314608; Hesterberg (see `percentile`), section
        5.4.
    """
    known = errors > 1e-6 * error  # rows that are all one differ by rounding
    t = divide(replicates - estimate, np.where(known, errors, np.nan))
    low, high = _ranked(t, np.asarray((1 - confidence) / 2))
    wide = np.where(error > 0, error, np.nan)
    # Either end can lie on the wrong side in a sample whose draws all do.
    return Interval(
        np.asarray(estimate),
        estimate - wide * np.maximum(high, 0),
        estimate - wide * np.minimum(low, 0),
    )


def _limit(moments: Floats, n_boot: int, rng: np.random.Generator) -> Floats:
    n, m = moments.shape
    centre = moments.mean(0)
    covariance = np.zeros((m, m))
    for start in range(0, n, _BLOCK):
        part = moments[start : start + _BLOCK] - centre
        covariance += part.T @ part / n
    deviation = np.sqrt(np.diag(covariance))
    # By the correlations: eigenvalues of moments in different units would drown each other.
    values, vectors = np.linalg.eigh(
        np.nan_to_num(divide(covariance, np.outer(deviation, deviation)))
    )
    root = vectors * np.sqrt(np.maximum(values, 0))
    drawn = rng.standard_normal((n_boot, m)) @ root.T
    return np.asarray(centre + drawn * deviation / np.sqrt(n))


def _ranked(replicates: Floats, tail: Floats) -> tuple[Floats, Floats]:
    """Return what `tail` of the replicates are below and above; NaN if too many are undefined."""
    n_boot = len(replicates)
    ordered = np.sort(replicates, axis=0)  # NaN last
    defined = n_boot - np.isnan(replicates).sum(0)
    known = (defined >= (1 - _MAX_UNDEFINED) * n_boot) & ~np.isnan(tail)
    below = np.where(known, np.floor(np.where(known, tail, 0) * defined), 0).astype(np.int64)
    above = np.maximum(defined - 1 - below, 0)
    low, high = (np.take_along_axis(ordered, rank[None], axis=0)[0] for rank in (below, above))
    return np.where(known, low, np.nan), np.where(known, high, np.nan)
