"""Means over seeds, with intervals that know the splits overlap."""

from typing import Any

import numpy as np
import pandas as pd


def over_seeds(
    results: pd.DataFrame,
    *,
    baseline: str = "unclipped",
    test_over_train: float,
    confidence: float = 0.95,
) -> pd.DataFrame:
    r"""Average each metric of each arm over the seeds, and its change against the baseline.

    .. math:: \bar m \pm t_{J - 1} \sqrt{(1 / J + n_{test} / n_{train}) \, s^2}

    Every seed draws its own split of the same rows, so the J results are not independent; the
    second term pays for that. Changes are paired by seed, over the seeds that arm and baseline
    share. With one seed there are means and no bounds (NaN); a NaN result makes its mean NaN.
    Bounds stop at the range of a share: 0 and 1, those of a change at -1 and 1.
    The interval covers the choice of split and initial weights, not another population.

    Args:
        results: Columns ``arm``, ``seed`` and one column a metric, shares in [0, 1]; one row a run.
        baseline: The arm that changes are measured against.
        test_over_train: :math:`n_{test} / n_{train}`, rows over rows, not negative.
        confidence: Coverage aimed at, in (0, 1).

    Returns:
        One row an arm, in order of appearance, indexed by ``arm``; for each metric M the columns
        ``M_mean, M_low, M_high, M_change, M_change_low, M_change_high``, in M's units.

    Raises:
        ValueError: If columns, the baseline or a metric are missing or not numeric, a (arm, seed)
            pair occurs twice, or a metric or a number is out of range.

    Source:
        C. Nadeau, Y. Bengio (2003), https://doi.org/10.1023/A:1024068626366, corrected resampled t.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import over_seeds
        >>> runs = pd.DataFrame({
        ...     "arm": ["unclipped", "unclipped", "cap", "cap"],
        ...     "seed": [0, 1, 0, 1],
        ...     "accuracy": [0.8, 0.9, 0.7, 0.9],
        ... })
        >>> over_seeds(runs, test_over_train=0.5)["accuracy_change"].round(3).to_dict()
        {'unclipped': 0.0, 'cap': -0.05}
    """
    metrics = _checked_metrics(results, baseline, test_over_train, confidence)
    arms = {
        str(arm): rows.set_index("seed")[metrics]
        for arm, rows in results.groupby("arm", sort=False)
    }
    rows = {}
    for arm, values in arms.items():
        changes = (values - arms[baseline]).loc[values.index.intersection(arms[baseline].index)]
        level, change = (
            _mean_interval(runs.to_numpy(np.float64), test_over_train, confidence).clip(lowest, 1)
            for runs, lowest in ((values, 0), (changes, -1))
        )
        columns = [f"{m}_{part}" for m in metrics for part in _PARTS]
        rows[arm] = dict(zip(columns, np.concatenate([level, change]).T.ravel(), strict=True))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


_PARTS = ("mean", "low", "high", "change", "change_low", "change_high")


def _mean_interval(values: np.ndarray[Any, Any], overlap: float, confidence: float) -> Any:
    """Return mean, low and high of each column, (3, M); values are (J, M)."""
    from scipy.special import stdtrit

    j, n_metrics = values.shape
    if j == 0:
        return np.full((3, n_metrics), np.nan)
    mean = values.mean(0)
    if j == 1:
        return np.stack([mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)])
    half = stdtrit(j - 1, (1 + confidence) / 2) * np.sqrt((1 / j + overlap) * values.var(0, ddof=1))
    return np.stack([mean, mean - half, mean + half])


def _checked_metrics(
    results: pd.DataFrame, baseline: str, test_over_train: float, confidence: float
) -> list[str]:
    if missing := {"arm", "seed"} - set(results.columns):
        raise ValueError(f"`results` must have the columns arm and seed, {missing} not found.")
    metrics = [str(column) for column in results.columns if column not in ("arm", "seed")]
    strange = [m for m in metrics if not pd.api.types.is_numeric_dtype(results[m])]
    if strange or not metrics:
        raise ValueError(f"`results` must have numeric metrics, got {strange or 'none'}.")
    outside = [m for m in metrics if ((results[m] < 0) | (results[m] > 1)).any()]
    if outside:
        raise ValueError(f"`results` must have metrics in [0, 1], {outside} are not.")
    if results.duplicated(["arm", "seed"]).any():
        raise ValueError("`results` must have one row for each arm and seed, got more.")
    if baseline not in set(results["arm"]):
        raise ValueError(f"`baseline` must be an arm of `results`, got {baseline!r}.")
    if not 0 <= test_over_train < np.inf:
        raise ValueError(f"`test_over_train` must be 0 or more, got {test_over_train}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}.")
    return metrics
