"""Permutation p-values of gaps: of counts without touching the rows, and of values of rows."""

from collections.abc import Callable, Sequence

import numpy as np

from ._rates import Floats, Ints
from ._row_sets import RowSet, Slots

_MAX_CELLS = 20_000_000  # drawn for one p; with thousands of groups there are fewer draws
_MAX_ROWS = 100_000_000  # values drawn for one p
_MIN_DRAWS = 199  # whatever that takes
_BLOCK = 1_000_000  # numbers drawn at a time
_MAX_HYPERGEOMETRIC = 10**9  # rows, numpy's limit


def gap_p(tables: Sequence[Floats], n_draws: int, rng: np.random.Generator) -> float:
    r"""Share of relabelled data sets with a gap at least as large as the one found.

    .. math:: p = (1 + \#\{\text{gap}_{draw} \ge \text{gap}\}) / (1 + n_{draws})

    The gap is the largest spread over the groups, max - min, of the share of any outcome in any
    table. Shuffling the groups over the rows of a table makes its counts multivariate
    hypergeometric, so they are drawn, and the cost does not depend on the number of rows. The
    tables are shuffled apart: one table a label permutes within the label.

    At most 20 million cells are drawn, and 199 data sets at least: beyond 2,000 cells in all tables
    there are fewer draws than asked for, so p is never as small. Beyond a billion rows the groups
    are drawn with replacement, which leaves the variance of every difference as it is. NaN where a
    group has no rows in a table that has any.

    Args:
        tables: Rows by group and outcome, each (K, C).
        n_draws: Relabelled data sets.
        rng: Source of the draws.

    Source:
        As `scipy.stats.permutation_test` with `permutation_type="pairings"`, whose p-value of
        random permutations this is; B. Phipson, G. K. Smyth (2010), https://arxiv.org/abs/1603.05766.
    """
    looked_at = [np.asarray(table).astype(np.int64) for table in tables]
    looked_at = [table for table in looked_at if table.sum()]
    if not looked_at or any((table.sum(1) == 0).any() for table in looked_at):
        return float("nan")
    n_cells = sum(table.size for table in looked_at)

    def draw(size: int) -> Floats:
        gaps = [_gap(_shuffled(table, size, rng), table.sum(1)) for table in looked_at]
        return np.asarray(np.max(gaps, axis=0))

    found = max(float(_gap(table, table.sum(1))) for table in looked_at)
    return _p(found, draw, n_draws, n_cells, _MAX_CELLS)


def row_gap_p(
    sets: Sequence[RowSet], n_groups: int, n_draws: int, rng: np.random.Generator
) -> float:
    """Permutation p of the largest spread of the groups' weighted means of any column of any set.

    As `gap_p`, with the values shuffled over the rows of a set, whose groups and weights stay: so
    values are taken to have nothing to do with weights or groups, not only their means.

    Sets of more than 5,000 rows are not shuffled. The rows of a group of up to 500 are drawn with
    replacement, and the means of larger groups from their limit, a normal distribution: both leave
    the variance of every difference between groups as shuffling has it. At most 100 million values
    are drawn, and 199 data sets at least. NaN where a group has no rows, or no weight, in a set
    that has any.

    Args:
        sets: What is shuffled together; for equalized odds one set a label.
        n_groups: K; codes are 0 to K - 1.
        n_draws: Shuffles.
        rng: Source of the draws.
    """
    slots = [Slots.of(rows, n_groups) for rows in sets if len(rows.codes)]
    if not slots or any((each.total <= 0).any() for each in slots):
        return float("nan")

    def draw(size: int) -> Floats:
        gaps = [each.shuffled_spreads(size, rng) for each in slots]
        return np.asarray(np.max(gaps, axis=0))

    found = max(each.spread() for each in slots)
    return _p(found, draw, n_draws, sum(each.cost for each in slots), _MAX_ROWS)


def _p(
    found: float, draw: Callable[[int], Floats], n_draws: int, cost: int, max_cost: int
) -> float:
    """Return the p-value of a gap from drawn ones, (size,), of which each costs so much."""
    n_draws = min(n_draws, max(_MIN_DRAWS, max_cost // cost))
    step = max(1, _BLOCK // cost)
    n_at_least = 0
    for start in range(0, n_draws, step):
        gaps = draw(min(step, n_draws - start))
        n_at_least += int((gaps >= found - 1e-12).sum())  # equal gaps round differently
    return (1 + n_at_least) / (1 + n_draws)


def _gap(counts: Ints, sizes: Ints) -> Floats:
    """Return the largest spread of a share over the groups, (...), from counts (..., K, C)."""
    return np.asarray(np.ptp(counts / sizes[:, None], axis=-2).max(-1))


def _shuffled(table: Ints, n_draws: int, rng: np.random.Generator) -> Ints:
    """Draw a table with the margins of this one, (n_draws, K, C)."""
    sizes, outcomes = table.sum(1), table.sum(0)
    if sizes.sum() >= _MAX_HYPERGEOMETRIC:
        return rng.multinomial(sizes, outcomes / outcomes.sum(), size=(n_draws, len(sizes)))
    if len(outcomes) == 2:  # numpy's own loop over the groups takes half the time
        first = rng.multivariate_hypergeometric(sizes, outcomes[0], n_draws, method="marginals")
        return np.stack([first, sizes - first], axis=-1)
    width = 1 << (len(sizes) - 1).bit_length()
    padded = np.zeros(width, dtype=np.int64)
    padded[: len(sizes)] = sizes
    # Half of the groups first, then half of each half: no loop over the groups.
    drawn = np.broadcast_to(outcomes, (n_draws, 1, len(outcomes)))
    while width > 1:
        halves = padded.reshape(-1, 2, width // 2).sum(-1)  # (parts, 2)
        left = _hypergeometric(drawn, halves[:, 0], rng)
        drawn = np.stack([left, drawn - left], axis=2).reshape(n_draws, -1, len(outcomes))
        width //= 2
    return drawn[:, : len(sizes)]


def _hypergeometric(rows: Ints, sizes: Ints, rng: np.random.Generator) -> Ints:
    """Draw so many of the rows without replacement; rows (n_draws, parts, C), sizes (parts,)."""
    drawn = np.empty_like(rows)
    missing = np.broadcast_to(sizes, rows.shape[:-1])
    rest = rows.sum(-1)
    for c in range(rows.shape[-1] - 1):
        rest = rest - rows[..., c]
        drawn[..., c] = rng.hypergeometric(rows[..., c], rest, missing)
        missing = missing - drawn[..., c]
    drawn[..., -1] = missing
    return drawn
