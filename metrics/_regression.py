"""Figures of numbers predicted for numbers, by group, in the units of the target."""

from dataclasses import dataclass

import numpy as np

from ._bootstrap import percentile, row_replicates
from ._figures import Figure
from ._intervals import Interval
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
    weights = rows.each_weight()
    bounds, n = [], []
    for part in parts(rows.codes, len(rows.names)):
        moments = Moments.of(rows.truth[part], predictions[part], weights[part])
        own = moments.each
        values = moments.figures(own.mean(0))
        draws = moments.figures(row_replicates(own, n_boot, rng))
        bounds.append(
            [percentile(values[name], draws[name], confidence, len(own)) for name in FIGURES]
        )
        n.append(len(own))
    by_figure = np.array(bounds, dtype=np.float64).transpose(1, 2, 0)  # (figures, 3, 1 + K)
    return {
        name: Figure(Interval(*each), np.array(n, dtype=np.int64), "bootstrap of rows")
        for name, each in zip(FIGURES, by_figure, strict=True)
    }
