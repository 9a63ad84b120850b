"""Every figure of every task with its interval: of all rows first, then of each group, (1 + K,)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._bootstrap import cell_replicates, percentile
from ._intervals import Interval, balanced, two_sided, wilson
from ._rates import RATES, Floats, Ints, Share, Tally, accuracy, divide, recalls, share

_BLOCK = 20_000_000  # cells that are drawn at a time


class Figure(NamedTuple):
    """One figure, (1 + K,): estimate and bounds, the rows that it looks at, how it was bounded."""

    interval: Interval
    n: Ints
    method: str


def binary_figures(tally: Tally, confidence: float) -> dict[str, Figure]:
    """Return the figures of a tally with two labels."""
    z = two_sided(confidence)
    figures = {name: rate_figure(share(tally, name), z) for name in RATES}
    both = balanced(figures["tpr"].interval, figures["fpr"].interval)
    every = figures["accuracy"].n
    names = ["base_rate", "accuracy", "balanced_accuracy", *list(RATES)[2:]]
    figures["balanced_accuracy"] = Figure(both, every, "square-and-add")
    return {name: figures[name] for name in names}


def multiclass_figures(
    tally: Tally,
    values: tuple[object, ...],
    confidence: float,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Figure]:
    """Return the figures of a tally with several labels: means over them, and of each."""
    z = two_sided(confidence)
    figures = {"accuracy": rate_figure(accuracy(tally), z)}
    figures |= {
        name: Figure(interval, figures["accuracy"].n, "multinomial bootstrap")
        for name, interval in _macro_intervals(tally, confidence, n_boot, rng).items()
    }
    for label, value in enumerate(values):
        one = tally.against_rest(label)
        for rate in ("base_rate", "selection_rate", "tpr", "fpr", "precision"):
            figures[f"{rate}[{value}]"] = rate_figure(share(one, rate), z)
    return figures


def rate_figure(found: Share, z: float) -> Figure:
    """Return a share with Wilson's interval."""
    interval = wilson(found.successes, found.trials, z, found.size)
    return Figure(interval, found.n, "Wilson")


def macro_averages(counts: Floats) -> dict[str, Floats]:
    """Return the means over the labels, each (...), of counts (..., C, C); NaN as in `divide`."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(-1), counts.sum(-2)
    return {
        "balanced_accuracy": recalls(counts).mean(-1),
        "macro_precision": divide(right, predicted).mean(-1),
        "macro_f1": divide(2 * right, true + predicted).mean(-1),
    }


def effective_sizes(tally: Tally) -> Floats:
    """Return how many rows of weight 1 would be as sure, (1 + K,)."""
    axes = tuple(range(1, tally.n.ndim))
    return divide(tally.weight.sum(axes) ** 2, tally.square.sum(axes))


def _macro_intervals(
    tally: Tally, confidence: float, n_boot: int, rng: np.random.Generator
) -> dict[str, Interval]:
    sizes = effective_sizes(tally)
    found: dict[str, list[Interval]] = {}
    for k, size in enumerate(sizes):
        estimates = macro_averages(tally.weight[k])
        draws = macro_replicates(tally.weight[k], size, n_boot, rng)
        for name, estimate in estimates.items():
            bounds = percentile(estimate, draws[name], confidence, size)
            found.setdefault(name, []).append(bounds)
    return {
        name: Interval(*(np.array(parts, dtype=np.float64) for parts in zip(*each, strict=True)))
        for name, each in found.items()
    }


def macro_replicates(
    counts: Floats, size: float, n_boot: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Return `macro_averages` of drawn cells, each (n_boot,), of counts (C, C)."""
    step = max(1, _BLOCK // counts.size)
    parts = []
    for start in range(0, n_boot, step):
        n = min(step, n_boot - start)
        drawn = cell_replicates(counts.ravel(), n, rng, n_eff=size)
        parts.append(macro_averages(drawn.reshape(n, *counts.shape)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
