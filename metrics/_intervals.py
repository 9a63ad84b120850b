"""Confidence intervals that need no draws. All of them work on arrays of any one shape."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._rates import divide

Floats = NDArray[np.float64]


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


def wilson(
    successes: NDArray[Any], trials: NDArray[Any], z: float, n_eff: Floats | None = None
) -> Interval:
    r"""Wilson's score interval of a proportion.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    Source:
        E. B. Wilson (1927), https://doi.org/10.2307/2276774; as scipy's
        ``binomtest(...).proportion_ci(method="wilson")``, which takes one proportion at a time.
    """
    share = divide(successes, trials)
    n = np.where(trials == 0, np.nan, trials if n_eff is None else n_eff)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At 0 and at n the bound is the estimate, which rounding would miss by 1e-17.
    low = np.where(successes == 0, share, centre - half)
    high = np.where(successes == trials, share, centre + half)
    return Interval(share, low, high)


def normal(value: Floats, variance: Floats, z: float, lowest: float = 0) -> Interval:
    """Interval of an estimate in [lowest, 1]; NaN bounds where the variance is 0 or unknown."""
    half = z * np.sqrt(np.where(variance > 0, variance, np.nan))
    return Interval(value, np.maximum(value - half, lowest), np.minimum(value + half, 1))


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


def bound_of_least(
    successes: NDArray[np.int64], trials: NDArray[np.int64], confidence: float
) -> float:
    """Lower bound of the least of K shares: none of them is below it.

    The least of one-sided Wilson bounds, each at ``confidence``: it is not above the bound of the
    share that is the least in truth, and that one holds with ``confidence``.
    """
    z = quantile(confidence)
    return float(wilson(successes, trials, z).low.min())


def ratio(numerator: Interval, denominator: Interval) -> Interval:
    """Temporary."""
    a, b = numerator, denominator
    value = divide(a.value, b.value)
    return Interval(value, divide(a.low, b.high), divide(a.high, b.low))
