"""Changes between two models on the same rows, with intervals."""

import numpy as np
from numpy.typing import NDArray

from ._intervals import Interval, difference, normal
from ._rates import RATES, divide
from ._scores import auc_components, parts, variance_of_mean

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_PAIRED_RATES = ("accuracy", "selection_rate", "tpr", "fpr", "fnr")


def paired_counts(codes: Ints, labels: Ints, before: Ints, after: Ints, n_groups: int) -> Ints:
    """Count label × prediction × prediction: all rows, then each group, (1 + K, 2, 2, 2)."""
    cells = (codes + 1) * 8 + labels * 4 + before * 2 + after
    counts = np.bincount(cells, minlength=8 * (n_groups + 1)).reshape(-1, 2, 2, 2)
    return np.concatenate([counts.sum(0, keepdims=True), counts[1:]])


def rate_changes(counts: Ints, z: float) -> dict[str, Interval]:
    """Return the change of each rate that is a share of rows fixed beforehand.

    Precision is not among them: the rows that it looks at change with the prediction.
    """
    changes = {rate: _rate_change(counts, rate, z) for rate in _PAIRED_RATES}
    both = difference(changes["tpr"], changes["fpr"])  # of different rows, so independent
    changes["balanced_accuracy"] = Interval(*(bound / 2 for bound in both))
    return changes


def score_changes(
    codes: Ints, labels: Ints, before: Floats, after: Floats, n_groups: int, z: float
) -> dict[str, Interval]:
    """Return the changes of auc and brier, each (1 + K,); NaN bounds where nothing varies.

    The AUC's by DeLong's components, paired; the Brier score's by the mean of paired differences.
    """
    scores = np.concatenate([before, after])
    is_probability = bool(((scores >= 0) & (scores <= 1)).all())
    rows = []
    for part in parts(codes, n_groups):
        y, s0, s1 = labels[part], before[part], after[part]
        pairs = zip(auc_components(y, s0), auc_components(y, s1), strict=True)
        moved = [new - old for old, new in pairs]
        auc = moved[0].mean() if len(moved[0]) else np.nan
        error = (s1 - y) ** 2 - (s0 - y) ** 2 if is_probability else np.empty(0)
        brier = error.mean() if len(error) else np.nan
        rows.append((auc, sum(map(variance_of_mean, moved)), brier, variance_of_mean(error)))
    auc_, auc_var, brier_, brier_var = np.array(rows).T
    return {"auc": normal(auc_, auc_var, z, -1), "brier": normal(brier_, brier_var, z, -1)}


def _rate_change(counts: Ints, rate: str, z: float) -> Interval:
    r"""Change of a share and its interval, from the rows that changed in each direction.

    .. math:: \frac{b - c}{n + 2} \pm z \frac{\sqrt{b + c + 1 - (b - c)^2 / (n + 2)}}{n + 2}

    Source:
        A. Agresti, Y. Min (2005), https://doi.org/10.1002/sim.1781: half a row is added to each of
        the four cells of McNemar's table, so that no change is not taken for certain.
    """
    success, looked_at = (np.array(mask) for mask in RATES[rate])
    rows = looked_at[:, :1, None]  # by label only, (2, 1, 1)
    gained = (1 - success)[:, :, None] * success[:, None, :] * rows
    lost = success[:, :, None] * (1 - success)[:, None, :] * rows
    b, c, n = ((counts * mask).sum((-3, -2, -1)) for mask in (gained, lost, rows))
    value = divide(b - c, n)
    centre = (b - c) / (n + 2)
    half = z * np.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    low = np.clip(centre - half, -1, value)
    high = np.clip(centre + half, value, 1)
    return Interval(value, low, high)
