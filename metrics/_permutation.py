"""Permutation p-values of gaps, from the cell counts alone."""

import numpy as np
from numpy.typing import NDArray

from ._rates import divide, successes_and_trials

# A gap is the largest max - min of its rates.
GAPS = {
    "accuracy_difference": ("accuracy",),
    "demographic_parity_difference": ("selection_rate",),
    "equalized_odds_difference": ("tpr", "fpr"),
}

_MAX_DRAWN = 1_000_000  # counts held at a time, so that thousands of groups fit into memory


def gap_p(
    counts: NDArray[np.int64],  # (K, 2, 2)
    gap: str,
    n_draws: int,
    rng: np.random.Generator,
) -> float:
    r"""Share of relabelled data sets with a gap at least as large as the one found.

    .. math:: p = (1 + \#\{\text{gap}_{draw} \ge \text{gap}\}) / (1 + n_{draws})

    Shuffling the groups over the rows that a rate looks at (for equalized odds: the rows of each
    label apart) makes the successes per group multivariate hypergeometric, so the counts are drawn
    and the rows never touched: the cost does not depend on their number. NaN where a group has no
    such rows.

    Source:
        As `scipy.stats.permutation_test` with `permutation_type="independent"`, whose p-value of
        random permutations this is; B. Phipson, G. K. Smyth (2010), https://arxiv.org/abs/1603.05766.
    """
    tables = [successes_and_trials(counts, rate) for rate in GAPS[gap]]
    if any((trials == 0).any() for _, trials in tables):
        return float("nan")
    found = max(np.ptp(divide(*table)) for table in tables)
    block = max(1, _MAX_DRAWN // len(counts))
    n_at_least = 0
    for start in range(0, n_draws, block):
        size = min(block, n_draws - start)
        gaps = [
            np.ptp(_shuffled(successes, trials, size, rng) / trials, axis=1)
            for successes, trials in tables
        ]
        # Equal gaps of other groups round differently.
        n_at_least += int((np.max(gaps, axis=0) >= found - 1e-12).sum())
    return (1 + n_at_least) / (1 + n_draws)


def _shuffled(
    successes: NDArray[np.int64], trials: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the successes of each group with the groups shuffled, (size, K)."""
    return rng.multivariate_hypergeometric(trials, successes.sum(), size, method="marginals")
