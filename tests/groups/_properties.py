"""What holds for the batches of every epoch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def counts_per_batch(
    batches: Sequence[Sequence[int]], groups: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many rows of each code every batch holds, the codes in ascending order."""
    codes = np.unique(groups)
    return np.array([[(groups[list(batch)] == code).sum() for code in codes] for batch in batches])


def assert_as_even_as_integers_allow(counts: NDArray[np.int64]) -> None:
    """Down each column the numbers differ by one at most."""
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1


def assert_permutation(batches: Sequence[Sequence[int]], n_rows: int) -> None:
    """Every row is drawn once."""
    assert sorted(row for batch in batches for row in batch) == list(range(n_rows))
