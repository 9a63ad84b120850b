"""Every figure of every task with its interval: of all rows first, then of each group, (1 + K,)."""

from collections.abc import Iterator, Sequence
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


def macro_averages(counts: Floats, occurs: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the means over the labels, each (...), of counts (..., C, C); NaN as in `divide`.

    The balanced accuracy is the mean recall of those that occur among all rows, (C,).
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(-1), counts.sum(-2)
    return {
        "balanced_accuracy": recalls(counts)[..., occurs].mean(-1),
        "macro_precision": divide(right, predicted).mean(-1),
        "macro_f1": divide(2 * right, true + predicted).mean(-1),
    }


def occurring(tally: Tally) -> NDArray[np.bool_]:
    """Tell of each label whether a row has it, (C,); others occur in predictions alone."""
    return np.asarray(tally.n[0].sum(tuple(range(1, tally.n.ndim - 1))) > 0)


def rarest_label(tally: Tally) -> Floats:
    """Return how many rows of weight 1 the rarest label that occurs is worth, (1 + K,)."""
    axes = tuple(range(2, tally.n.ndim))
    sizes = divide(tally.weight.sum(axes) ** 2, tally.square.sum(axes))  # (1 + K, C)
    return np.asarray(np.fmin.reduce(sizes, axis=1))


def _macro_intervals(
    tally: Tally, confidence: float, n_boot: int, rng: np.random.Generator
) -> dict[str, Interval]:
    found: dict[str, list[Interval]] = {}
    sizes, occurs = rarest_label(tally), occurring(tally)
    rngs = rng.spawn(len(sizes))
    for weight, square, size, source in zip(tally.weight, tally.square, sizes, rngs, strict=True):
        draws = [
            macro_averages(drawn, occurs) for drawn in cell_draws(weight, square, n_boot, source)
        ]
        for name, estimate in macro_averages(weight, occurs).items():
            replicates = np.concatenate([block[name] for block in draws])
            found.setdefault(name, []).append(percentile(estimate, replicates, confidence, size))
    return {name: stack(each) for name, each in found.items()}


def cell_draws(
    weight: Floats, square: Floats, n_boot: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Yield drawn cells, (n, ...), in blocks that fit into memory; empty cells stay empty."""
    found = np.flatnonzero(weight)
    step = max(1, _BLOCK // weight.size)
    for start in range(0, n_boot, step):
        n = min(step, n_boot - start)
        drawn = np.zeros((n, weight.size))
        if len(found):
            drawn[:, found] = cell_replicates(
                weight.ravel()[found], n, rng, squares=square.ravel()[found]
            )
        yield drawn.reshape(n, *weight.shape)


def stack(intervals: Sequence[Interval]) -> Interval:
    """Return the intervals of one figure each as one, along a last dimension."""
    return Interval(*(np.stack(part, axis=-1) for part in zip(*intervals, strict=True)))
