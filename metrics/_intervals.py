"""Confidence intervals that need no draws. All of them work on arrays of any one shape.

The least of several shares has none of its own: its bound is the least of the one-sided bounds of
each, for it is not above the bound of the share that is the least in truth, and that one holds with
its confidence. So with the greatest of upper bounds for the largest error. Bounds that are exact
for one share are then cautious for many.
"""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._rates import divide

Floats = NDArray[np.float64]

_FAR = 600.0  # in log-odds: the share is 0 or 1 there, and the exponential still a number


class Interval(NamedTuple):
    """A point estimate and its bounds, NaN where undefined."""

    value: Floats
    low: Floats
    high: Floats


def quantile(probability: float) -> float:
    """Return the standard normal quantile (scipy would cost 0.2 s of start-up)."""
    return NormalDist().inv_cdf(probability)


def two_sided(confidence: float) -> float:
    """Return the z of a central interval: 1.96 for 0.95."""
    return quantile((1 + confidence) / 2)


def student(confidence: float, freedom: Floats) -> Floats:
    """Return Student's t of a central interval at these degrees of freedom; NaN at 0 or below."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.where(freedom > 0, freedom, np.nan), (1 + confidence) / 2))


def wilson(
    successes: NDArray[Any], trials: NDArray[Any], z: float, n_eff: Floats | None = None
) -> Interval:
    r"""Wilson's score interval of a proportion.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    Sums of weights for ``successes`` and ``trials`` need ``n_eff``, their `effective_size`.

    Source:
        E. B. Wilson (1927), https://doi.org/10.2307/2276774; as scipy's
        ``binomtest(...).proportion_ci(method="wilson")``, which takes one proportion at a time.
    """
    # Sums of weights in another order can exceed each other by a rounding error.
    share = np.clip(divide(successes, trials), 0, 1)
    size = trials if n_eff is None else n_eff
    n = np.where((trials == 0) | (size == 0), np.nan, size)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At 0 and at 1 the bound is the estimate, which rounding would miss by 1e-17.
    low = np.where(share == 0, share, np.clip(centre - half, 0, share))
    high = np.where(share == 1, share, np.clip(centre + half, share, 1))
    return Interval(share, low, high)


def normal(value: Floats, variance: Floats, z: float, lowest: float = 0) -> Interval:
    """Interval of an estimate in [lowest, 1]; NaN bounds where the variance is 0 or unknown."""
    half = z * np.sqrt(np.where(variance > 0, variance, np.nan))
    return Interval(value, np.maximum(value - half, lowest), np.minimum(value + half, 1))


def logit(value: Floats, variance: Floats, z: float | Floats) -> Interval:
    r"""Interval of an estimate in (0, 1), symmetric in its log-odds; NaN bounds as in `normal`.

    .. math:: \operatorname{logit}^{-1}\!\Big(
        \operatorname{logit} v \pm z \, \frac{\sigma}{v (1 - v)} \Big)

    For an AUC: at 0.95 the symmetric interval covers 0.78 of the time with 10 positive rows and
    0.91 with 50, this one 0.91 and 0.94. With 10 rows of a label ``z`` should be Student's, at
    `welch`'s degrees of freedom; nothing makes up for an AUC above 0.9 that rests on fewer.

    Source:
        M. S. Pepe (2003), The Statistical Evaluation of Medical Tests for Classification and
        Prediction, section 5.2.4.
    """
    inside = np.where((variance > 0) & (value > 0) & (value < 1), value, np.nan)
    odds = inside / (1 - inside)
    shift = z * np.sqrt(np.maximum(variance, 0)) / (inside * (1 - inside))
    factor = np.exp(np.minimum(shift, _FAR))
    return Interval(value, odds / (odds + factor), 1 - 1 / (1 + odds * factor))


def welch(variances: Floats, sizes: Floats) -> Floats:
    """Return the degrees of freedom of a sum of independent means, (...), from those of each.

    Args:
        variances: Squared standard error of each mean, (..., parts).
        sizes: Rows behind each mean, (..., parts).

    Source:
        B. L. Welch (1947), https://doi.org/10.1093/biomet/34.1-2.28.
    """
    return divide(variances.sum(-1) ** 2, divide(variances**2, sizes - 1).sum(-1))


def difference(minuend: Interval, subtrahend: Interval) -> Interval:
    r"""Interval of a difference of two independent estimates from the interval of each.

    .. math:: d - \sqrt{(a - l_a)^2 + (u_b - b)^2},\quad d + \sqrt{(u_a - a)^2 + (b - l_b)^2}

    Source:
        R. G. Newcombe (1998), method 10, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I;
        for estimates in general G. Y. Zou, A. Donner (2008), https://doi.org/10.1002/sim.3095.
    """
    a, b = minuend, subtrahend
    value = a.value - b.value
    low = value - np.hypot(a.value - a.low, b.high - b.value)
    high = value + np.hypot(a.high - a.value, b.value - b.low)
    return Interval(value, low, high)


def balanced(tpr: Interval, fpr: Interval) -> Interval:
    """Interval of the balanced accuracy, (1 + tpr - fpr) / 2."""
    return Interval(*((1 + bound) / 2 for bound in difference(tpr, fpr)))


def ratio(numerator: Interval, denominator: Interval) -> Interval:
    r"""Interval of a ratio of two independent estimates, none negative, from the interval of each.

    .. math::
        \frac{a b - \sqrt{a^2 b^2 - l_a (2 a - l_a) \, u_b (2 b - u_b)}}{u_b (2 b - u_b)}, \quad
        \frac{a b + \sqrt{a^2 b^2 - u_a (2 a - u_a) \, l_b (2 b - l_b)}}{l_b (2 b - l_b)}

    A ratio of 0 has the lower bound 0; the upper bound is inf where that below the denominator
    is 0. NaN where the denominator is 0; NaN bounds where an estimate or a bound is negative.

    Source:
        A. Donner, G. Y. Zou (2012), MOVER-R, https://doi.org/10.1177/0962280210383166. The lower
        bound is written with its root in the denominator, so that u = 2 b needs no case. Of
        logarithms it would cover as often, but has no bounds at 0.
    """
    a, b = numerator, denominator
    both = a.value * b.value
    with np.errstate(over="ignore", invalid="ignore"):  # of bounds beyond all use
        least = a.low * (2 * a.value - a.low), b.high * (2 * b.value - b.high)
        most = a.high * (2 * a.value - a.high), b.low * (2 * b.value - b.low)
        low = divide(least[0], both + np.sqrt(np.maximum(both**2 - least[0] * least[1], 0)))
        high = divide(both + np.sqrt(np.maximum(both**2 - most[0] * most[1], 0)), most[1])
    defined = (b.value > 0) & (a.low >= 0) & (b.low >= 0) & ~np.isnan(a.high) & ~np.isnan(b.high)
    return Interval(
        divide(a.value, b.value),
        np.where(defined, np.where(a.low == 0, 0.0, low), np.nan),
        np.where(defined, np.where(most[1] == 0, np.inf, high), np.nan),
    )
