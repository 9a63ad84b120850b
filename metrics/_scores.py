"""Figures of a score by group: AUC, Brier score, log loss, calibration error."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._calibration import calibration_error
from ._figures import Figure, stack
from ._intervals import Interval, logit, student, two_sided, welch
from ._labels import floats
from ._means import mean_intervals
from ._rates import Floats, Ints, divide
from ._rows import Rows

LOSSES = ("brier", "log_loss")


def encode_scores(y_score: Any, rows: Rows, name: str = "y_score") -> Floats:
    """Return the scores of the favourable label, (N,), or of each of several labels, (N, C)."""
    if rows.task == "regression":
        raise ValueError(f"`{name}` is of labels; a regression has none.")
    n_columns = 1 if rows.task == "binary" else len(rows.values)
    array = y_score if np.ndim(y_score) == 1 else np.asarray(y_score)
    if np.ndim(array) == 1 and n_columns == 1:
        return floats(array, len(rows.truth), name)
    if np.ndim(array) != 2 or array.shape[1] != n_columns:
        raise ValueError(
            f"`{name}` must have {n_columns} column{'s' if n_columns > 1 else ''}, one for each of "
            f"{', '.join(map(repr, rows.values))}, got the shape {np.shape(array)}."
            if n_columns > 1
            else f"`{name}` must be one column, of the favourable label, got {np.shape(array)}."
        )
    columns = [floats(array[:, c], len(rows.truth), name) for c in range(n_columns)]
    return columns[0] if n_columns == 1 else np.stack(columns, axis=1)


def by_score(rows: Rows, scores: Floats) -> tuple[Rows, Floats]:
    """Return the rows in ascending order of the score, (N,): whatever sorts them again is fast."""
    order = np.argsort(scores)
    weights = None if rows.weights is None else rows.weights[order]
    ordered = replace(rows, truth=rows.truth[order], codes=rows.codes[order], weights=weights)
    return ordered, scores[order]


def score_figures(
    rows: Rows, scores: Floats, confidence: float, n_boot: int, rng: np.random.Generator
) -> dict[str, Figure]:
    """Return auc, brier, log_loss and ece, each (1 + K,).

    Of several labels the AUC is the mean of each against the rest, the Brier score the sum over
    the labels, and the calibration error that of the highest probability. What needs probabilities
    is NaN unless all scores are in [0, 1]. The calibration error has no interval: it is biased
    upwards by an amount that shrinks with the number of rows. Here as everywhere each group draws
    from a source of its own: its bounds tell nothing of the other groups.
    """
    losses, weights = row_losses(rows, scores), rows.each_weight()
    has_ece = are_probabilities(scores)
    n, aucs, means, errors = [], [], [], []
    rngs = rng.spawn(1 + len(rows.names))
    for part, source in zip(parts(rows.codes, len(rows.names)), rngs, strict=True):
        truth, weight = rows.truth[part], weights[part]
        n.append(len(truth))
        aucs.append(_auc_interval(truth, scores[part], weight, confidence))
        own = None if rows.weights is None else weight
        means.append(mean_intervals(losses[part], own, n_boot, source, confidence))
        errors.append(_calibration_error(truth, scores[part], weight) if has_ece else np.nan)
    sizes, loss = np.array(n, dtype=np.int64), stack(means)
    unknown = np.full(len(sizes), np.nan)
    return {
        "auc": Figure(stack(aucs), sizes, "DeLong"),
        **{
            name: Figure(Interval(*(bound[i] for bound in loss)), sizes, "bootstrap of rows")
            for i, name in enumerate(LOSSES)
        },
        "ece": Figure(Interval(np.array(errors), unknown, unknown), sizes, "none"),
    }


def _auc_interval(truth: Ints, scores: Floats, weights: Floats, confidence: float) -> Interval:
    auc, influence = auc_and_influence(truth, scores, weights)
    value, z = np.asarray(auc), np.asarray(two_sided(confidence))
    if scores.ndim == 1:
        of_label = np.array([(influence[truth == label] ** 2).sum() for label in (0, 1)])
        z = student(confidence, welch(of_label, label_sizes(truth, weights)))
    return logit(value, np.asarray((influence**2).sum()), z)


def row_losses(rows: Rows, scores: Floats) -> Floats:
    """Return the Brier score and the log loss of each row, (N, 2)."""
    if not are_probabilities(scores):
        return np.full((len(scores), len(LOSSES)), np.nan)
    if scores.ndim == 1:
        brier = (scores - rows.truth) ** 2
        of_truth = np.where(rows.truth == 1, scores, 1 - scores)
    else:
        brier = ((scores - np.eye(scores.shape[1])[rows.truth]) ** 2).sum(1)
        of_truth = divide(scores[np.arange(len(scores)), rows.truth], scores.sum(1))
    # As in scikit-learn a probability of 0 is taken for the least that can be told from it.
    log_loss = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    return np.stack([brier, log_loss], axis=1)


def are_probabilities(scores: Floats) -> bool:
    """Tell whether all scores are in [0, 1]."""
    return bool(((scores >= 0) & (scores <= 1)).all())


def auc_and_influence(truth: Ints, scores: Floats, weights: Floats) -> tuple[float, Floats]:
    r"""Return the AUC and what each row moves it by, (N,); the variance is the sum of squares.

    .. math:: \text{AUC} = \frac{\sum_{i: y_i = 1} \sum_{j: y_j = 0} w_i w_j
        (1[s_i > s_j] + 1[s_i = s_j] / 2)}{W_1 W_0}, \qquad
        \phi_i = \sqrt{\tfrac{n_y}{n_y - 1}} \, w_i (V_i - \text{AUC}) / W_y

    :math:`V_i` is the weighted share of the other label's rows that row i is on the right side of,
    :math:`n_y` the effective number of rows of its label; one row leaves its :math:`\phi` NaN.
    Several labels: the mean of each against the rest.

    Source:
        DeLong et al. (1988), https://doi.org/10.2307/2531595, in one sort as X. Sun, W. Xu (2014),
        https://doi.org/10.1109/LSP.2014.2337313.
    """
    if scores.ndim == 2:
        labels = range(scores.shape[1])
        each = [auc_and_influence((truth == c) * 1, scores[:, c], weights) for c in labels]
        return float(np.mean([auc for auc, _ in each])), np.mean([phi for _, phi in each], axis=0)
    if len(truth) == 0 or truth.min() == truth.max():
        return float("nan"), np.full(len(truth), np.nan)
    order = np.argsort(scores, kind="stable")  # in no time where they are in order
    ordered, label, weight = scores[order], truth[order], weights[order]
    run = np.cumsum(np.diff(ordered, prepend=ordered[0]) != 0)  # rows of one score share a run

    def below(of: int) -> Floats:
        inside = np.bincount(run, weights=weight * (label == of))
        return np.asarray((np.cumsum(inside) - inside / 2)[run])

    total = np.bincount(label, weights=weight)
    n = label_sizes(label, weight)
    own = divide(np.sqrt(divide(n, np.where(n > 1 + 1e-9, n - 1, 0))), total)
    right_of = np.where(label == 1, divide(below(0), total[0]), 1 - divide(below(1), total[1]))
    auc = float(divide((weight * label) @ right_of, total[1]))
    influence = np.empty(len(truth))
    influence[order] = own[label] * weight * (right_of - auc)
    return auc, influence


def label_sizes(truth: Ints, weights: Floats) -> Floats:
    """Return Kish's effective number of rows of the labels 0 and 1, NaN without weight."""
    total, squares = (np.bincount(truth, each, 2) for each in (weights, weights**2))
    return divide(total**2, squares)


def parts(codes: Ints, n_groups: int) -> Iterator[NDArray[np.int64] | slice]:
    """Yield what selects all rows, then the rows of each group."""
    yield slice(None)
    order = np.argsort(codes.astype(np.int16), kind="stable")  # 16 bits are sorted by counting
    edges = np.searchsorted(codes[order], np.arange(n_groups + 1))
    for start, end in pairwise(edges):
        yield order[start:end]


def _calibration_error(truth: Ints, scores: Floats, weights: Floats) -> float:
    if scores.ndim == 2:
        highest = scores.argmax(1)
        truth, scores = (truth == highest) * 1, scores[np.arange(len(scores)), highest]
    return calibration_error(truth, scores, weights)
