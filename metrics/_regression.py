"""Figures of numbers predicted for numbers, by group, in the units of the target."""

from dataclasses import dataclass

import numpy as np

from ._bootstrap import percentile, row_replicates
from ._figures import Figure, stack
from ._intervals import Interval
from ._means import mean_intervals
from ._rates import Floats, divide
from ._rows import Rows
from ._scores import parts

FIGURES = ("mean_true", "mean_pred", "mae", "rmse", "bias", "r2")


@dataclass(frozen=True, slots=True)
class Moments:
    """What the figures are made of.

    Attributes:
        each: Of each row, (N, 6): weight, and weighted truth, its square, error, absolute error
            and squared error.
        centre: The mean of the truth, taken from it so that its square does not cancel.
    """

    each: Floats
    centre: float

    @classmethod
    def of(cls, truth: Floats, predictions: Floats, weights: Floats) -> "Moments":
        """Return those of one model on the rows of one group."""
        total = weights.sum()
        centre = float(weights @ truth / total) if total else 0.0
        truth, error = truth - centre, predictions - truth
        each = [np.ones_like(truth), truth, truth**2, error, np.abs(error), error**2]
        return cls(np.stack(each, axis=1) * weights[:, None], centre)

    def figures(self, means: Floats) -> dict[str, Floats]:
        r"""Return `FIGURES`, each (...), from means of rows, (..., 6).

        .. math:: R^2 = 1 - \frac{\sum w (y - \hat y)^2}{\sum w (y - \bar y)^2}

        R2 is NaN where the truth does not vary.
        """
        truth, square, bias, absolute, error = np.moveaxis(
            divide(means[..., 1:], means[..., :1]), -1, 0
        )
        variance = np.maximum(square - truth**2, 0)
        varies = variance > 1e-12 * square
        return {
            "mean_true": truth + self.centre,
            "mean_pred": truth + self.centre + bias,
            "mae": absolute,
            "rmse": np.sqrt(error),
            "bias": bias,
            "r2": 1 - divide(error, np.where(varies, variance, 0)),
        }


def regression_figures(
    rows: Rows, predictions: Floats, confidence: float, n_boot: int, rng: np.random.Generator
) -> dict[str, Figure]:
    """Return `FIGURES` with their intervals, each (1 + K,)."""
    found: dict[str, list[Interval]] = {name: [] for name in FIGURES}
    n = []
    rngs = rng.spawn(1 + len(rows.names))
    for part, source in zip(parts(rows.codes, len(rows.names)), rngs, strict=True):
        truth, prediction = rows.truth[part], predictions[part]
        weights = None if rows.weights is None else rows.weights[part]
        error = prediction - truth
        columns = np.stack([truth, prediction, np.abs(error), error, error**2], axis=1)
        means = mean_intervals(columns, weights, n_boot, source, confidence)
        for i, name in enumerate(("mean_true", "mean_pred", "mae", "bias")):
            found[name].append(Interval(*(bound[i] for bound in means)))
        found["rmse"].append(Interval(*(np.sqrt(bound[4]) for bound in means)))
        moments = Moments.of(truth, prediction, rows.each_weight()[part])
        r2 = moments.figures(moments.each.mean(0))["r2"] if len(truth) else np.asarray(np.nan)
        draws = moments.figures(row_replicates(moments.each, n_boot, source))["r2"]
        found["r2"].append(percentile(r2, draws, confidence, len(truth)))
        n.append(len(truth))
    sizes = np.array(n, dtype=np.int64)
    return {name: Figure(stack(each), sizes, "bootstrap of rows") for name, each in found.items()}
