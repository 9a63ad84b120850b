"""Metric functions of fairlearn and scikit-learn, added by name."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._bootstrap import cell_replicates, percentile
from ._figures import Figure
from ._intervals import Interval
from ._rates import Floats
from ._rows import Rows
from ._scores import parts

Metric: TypeAlias = Callable[..., float]
Model: TypeAlias = tuple[NDArray[Any], Floats | None]  # predictions and scores

_HOMES = ("fairlearn.metrics", "sklearn.metrics")
_MAX_CALLS = 4_000  # of a metric, over all groups: a call takes a millisecond or two
_FAIRLEARN_RATES = {  # the label of the rows that each looks at
    "true_positive_rate": 1,
    "false_negative_rate": 1,
    "true_negative_rate": 0,
    "false_positive_rate": 0,
}
_SCORES = ("y_score", "y_proba", "y_prob", "pred_decision")


def find_metrics(metrics: str | Iterable[str] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the functions by name; names are looked up in fairlearn, then in scikit-learn."""
    if isinstance(metrics, Mapping):
        return {str(name): _checked(str(name), metric) for name, metric in metrics.items()}
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    return {name: _checked(name, _look_up(name)) for name in names}


def named_figures(
    metrics: Mapping[str, Metric],
    rows: Rows,
    predictions: NDArray[Any],
    scores: Floats | None,
    confidence: float,
    n_boot: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Figure], list[str]]:
    """Return the figures by name, each (1 + K,), and what to say of the undefined ones."""
    n_draws = _n_draws(rows, n_boot)
    figures, notes = {}, []
    for name, metric in metrics.items():
        bounds, n = [], []
        samples = _samples(name, metric, rows, [(predictions, scores)])
        rngs = rng.spawn(1 + len(rows.names))
        for (group, sample), source in zip(samples, rngs, strict=True):
            try:
                value = sample.values()[0]
                draws = np.array(list(sample.draws(n_draws, source)))[:, 0]
            except _UndefinedError as undefined:
                notes.append(f"Undefined: {name} in {group} ({undefined}).")
                value, draws = np.nan, np.full(1, np.nan)
            bounds.append(percentile(np.asarray(value), draws, confidence, sample.size))
            n.append(sample.n)
        interval = Interval(*np.array(bounds, dtype=np.float64).T)
        figures[name] = Figure(interval, np.array(n), f"bootstrap, {n_draws} draws")
    return figures, notes


def named_changes(
    metrics: Mapping[str, Metric],
    rows: Rows,
    before: Model,
    after: Model,
    confidence: float,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """Return the changes by name, each (1 + K,), by rows drawn with both models on them."""
    n_draws = _n_draws(rows, n_boot)
    changes = {}
    for name, metric in metrics.items():
        bounds = []
        samples = _samples(name, metric, rows, [before, after])
        rngs = rng.spawn(1 + len(rows.names))
        for (_, sample), source in zip(samples, rngs, strict=True):
            try:
                values = np.array([sample.values(), *sample.draws(n_draws, source)])
            except _UndefinedError:
                values = np.full((2, 2), np.nan)
            change = values[:, 1] - values[:, 0]
            bounds.append(percentile(np.asarray(change[0]), change[1:], confidence, sample.size))
        changes[name] = Interval(*np.array(bounds, dtype=np.float64).T)
    return changes


def _n_draws(rows: Rows, n_boot: int) -> int:
    return min(n_boot, max(100, min(500, _MAX_CALLS // (1 + len(rows.names)))))


class _UndefinedError(Exception):
    """The metric has no value on these rows."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows, or cells of equal rows, that a metric is called with.

    Attributes:
        name: Of the metric.
        metric: The function.
        truth: What it takes first, (M,).
        others: What it takes second, of each model, (M,) or (M, C).
        weights: How much each entry counts, (M,); None where the metric takes no weights.
        squares: Sums of the rows' squared weights, (M,), where an entry stands for many rows.
        n: Rows.
        size: Rows of weight 1 that would be as sure.
    """

    name: str
    metric: Metric
    truth: NDArray[Any]
    others: list[NDArray[Any]]
    weights: Floats | None
    squares: Floats | None
    n: int
    size: float

    def values(self, chosen: Any = slice(None), weights: Floats | None = None) -> list[float]:
        """Call the metric on the chosen entries, for each model."""
        if not len(self.truth):
            raise _UndefinedError("no rows")
        if _lacks_rows(self.metric, self.truth[chosen]):
            raise _UndefinedError("no row with the label that it looks at")
        weights = self.weights if weights is None else weights
        given = {} if weights is None else {"sample_weight": weights[chosen]}
        with warnings.catch_warnings():
            # scikit-learn says in a warning that it puts a number where there is none.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)
            try:
                found = [
                    self.metric(self.truth[chosen], other[chosen], **given) for other in self.others
                ]
            except (ValueError, ZeroDivisionError, Warning) as error:
                raise _UndefinedError(str(error).split("\n")[0]) from error
            except TypeError as error:
                raise ValueError(
                    f"`metrics`: {self.name} cannot be called as {self.name}(y_true, y_pred): "
                    f"{error}."
                ) from error
        if not all(isinstance(value, Real) for value in found):
            raise ValueError(
                f"`metrics`: {self.name} must return one number, got {found[0]!r:.60}."
            )
        return [float(value) for value in found]

    def draws(self, n_draws: int, rng: np.random.Generator) -> Iterator[list[float]]:
        """Yield the metric of drawn rows; NaN where a draw leaves it undefined."""
        for _ in range(n_draws):
            try:
                if self.squares is not None and self.weights is not None:
                    drawn = cell_replicates(self.weights, 1, rng, squares=self.squares)[0]
                    yield self.values(drawn > 0, drawn)
                else:
                    yield self.values(rng.integers(0, len(self.truth), len(self.truth)))
            except _UndefinedError:
                yield [np.nan] * len(self.others)


def _samples(
    name: str, metric: Metric, rows: Rows, models: Sequence[Model]
) -> Iterator[tuple[str, _Sample]]:
    """Yield all rows, then those of each group, by name."""
    parameters = list(inspect.signature(metric).parameters)
    takes_weights = "sample_weight" in parameters
    wants_scores = len(parameters) > 1 and parameters[1] in _SCORES
    if wants_scores and any(scores is None for _, scores in models):
        raise ValueError(f"`metrics`: {name} is of scores. Pass them too.")
    if not takes_weights and not (rows.weights is None and rows.repeats is None):
        raise ValueError(f"`metrics`: {name} takes no `sample_weight`, which these rows need.")
    are_cells = takes_weights and not wants_scores and rows.task != "regression"
    others = [scores if wants_scores else predictions for predictions, scores in models]
    weights = rows.each_weight() if rows.repeats is None else rows.repeats.astype(np.float64)
    values = np.array(rows.values) if rows.task == "multiclass" else None

    def labels(codes: NDArray[Any]) -> NDArray[Any]:
        return codes if values is None else values[codes]

    for group, part in zip(
        ["all rows", *rows.names], parts(rows.codes, len(rows.names)), strict=True
    ):
        truth, weight = rows.truth[part], weights[part]
        other = [each[part] for each in others if each is not None]
        square = weight if rows.repeats is not None else weight**2
        n = len(truth) if rows.repeats is None else int(weight.sum())
        size = float(weight.sum() ** 2 / square.sum()) if square.any() else 0.0
        if are_cells:
            cells, position = np.unique(
                np.stack([truth, *other], axis=1), axis=0, return_inverse=True
            )
            truth, *other = cells.T
            weight, square = (
                np.bincount(position.ravel(), each, len(cells)).astype(np.float64)
                for each in (weight, square)
            )
        yield (
            group,
            _Sample(
                name,
                metric,
                labels(truth) if rows.task != "regression" else truth,
                other if wants_scores or rows.task == "regression" else [labels(o) for o in other],
                weight if takes_weights else None,
                square if are_cells else None,
                n,
                size,
            ),
        )


def _lacks_rows(metric: Metric, truth: NDArray[Any]) -> bool:
    """Tell whether this is a rate of fairlearn's, which is 0 where there are no such rows."""
    if not getattr(metric, "__module__", "").startswith("fairlearn."):
        return False
    label = _FAIRLEARN_RATES.get(getattr(metric, "__name__", ""))
    return label is not None and not bool((truth == label).any())


def _look_up(name: str) -> Metric:
    for home in _HOMES:
        found = getattr(import_module(home), name, None)
        if callable(found) and not inspect.isclass(found) and not name.startswith("_"):
            metric: Metric = found
            return metric
    raise ValueError(f"`metrics`: there is no {name!r} in {' or '.join(_HOMES)}.")


def _checked(name: str, metric: Any) -> Metric:
    if not callable(metric):
        raise TypeError(f"`metrics`: {name} must be a function, got {metric!r}.")
    if "sensitive_features" in inspect.signature(metric).parameters:
        raise ValueError(
            f"`metrics`: {name} compares groups. Name the metric that it compares; "
            "`difference()` and `ratio()` of the audit do the rest."
        )
    checked: Metric = metric
    return checked
