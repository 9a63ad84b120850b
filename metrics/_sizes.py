"""How many rows of weight 1 weighted rows are worth."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def effective_size(
    successes: Floats, trials: Floats, squared_successes: Floats, squared_trials: Floats
) -> Floats:
    r"""Return how many rows of weight 1 would make a weighted share p = S / T as sure.

    .. math::
        \min\Big( \frac{T^2}{Q_T}, \;
        \frac{p (1 - p) \, T^2}{(1 - p)^2 Q_S + p^2 (Q_T - Q_S)} \Big)

    S and T are sums of weights of the successes and of all rows, Q of their squares. The first term
    is Kish's: right where weights have nothing to do with success, several times too large where
    the few successes are the heavy rows. The second, from the linearised variance, is right in the
    long run but unsteady with few rows. 0 rows have size 0.

    Source:
        L. Kish (1965), Survey Sampling; C.-E. Särndal et al. (1992), Model Assisted Survey
        Sampling, section 5.7, for the linearised variance of a ratio.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = successes / trials
        spread = share * (1 - share)
        variance = (1 - share) ** 2 * squared_successes + share**2 * (
            squared_trials - squared_successes
        )
        kish = trials**2 / squared_trials
        linearised = np.where(spread > 0, spread * trials**2 / variance, kish)
    return np.where(trials > 0, np.fmin(kish, linearised), 0.0)
