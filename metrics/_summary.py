"""One model on one set of rows, as a few numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._labels import encode_predictions, encode_scores
from ._rates import balanced_accuracy, rate
from ._rows import Rows, encode_rows
from ._scores import auc_and_variance, auc_components
from ._worst import gap, worst_cell, worst_group


def summary(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, y_score: Any = None
) -> dict[str, float | str | int]:
    r"""Return the figures that one row of a trade-off table shows, without intervals.

    .. math::
        \text{worst cell accuracy} = \min_{g, y} \Pr(\hat y = y \mid g, y), \qquad
        \text{equalized odds difference} =
        \max_y \big( \max_g - \min_g \big) \Pr(\hat y = 1 \mid g, y)

    What is undefined is NaN: ``auc`` without scores, ``balanced_accuracy`` and ``auc`` with one
    label only, a gap where a group lacks the rows that it is about. Worst group and worst cell are
    taken over those that have rows. Rows with a missing sensitive feature count in the overall
    figures and in no group.

    Args:
        y_true: The label of each row; two values, as in `audit`.
        y_pred: The prediction for each row, of the same two values.
        sensitive_features: One value a row, or one column a feature; several make intersections.
        y_score: Score of the favourable label for each row, any scale; None leaves ``auc`` NaN.

    Returns:
        Shares in [0, 1]: ``accuracy``, ``balanced_accuracy``, ``auc``, ``selection_rate``,
        ``worst_group_accuracy``, ``worst_cell_accuracy``; gaps in [0, 1], 0 = none:
        ``equalized_odds_difference``, ``demographic_parity_difference``; names: ``worst_group``,
        ``worst_cell``; the rows of that cell: ``worst_cell_n``.

    Raises:
        ValueError: On input that `audit` refuses.

    Source:
        The gaps as in fairlearn, https://fairlearn.org/main/user_guide/assessment/, except that
        they are NaN, not 0, where a rate is undefined.

    Example:
        >>> from fairclip.metrics import summary
        >>> found = summary([0, 1, 0, 1], [0, 1, 0, 0], sensitive_features=["a", "a", "b", "b"])
        >>> found["worst_cell"], found["worst_cell_accuracy"], found["equalized_odds_difference"]
        ('sensitive_feature_0=b, y=1', 0.0, 1.0)
    """
    rows = encode_rows(y_true, sensitive_features)
    predictions = encode_predictions(y_pred, rows.labels)
    scores = None if y_score is None else encode_scores(y_score, len(predictions))
    return summarise(rows, predictions, scores)


def summarise(
    rows: Rows, predictions: NDArray[np.int64], scores: NDArray[np.float64] | None
) -> dict[str, float | str | int]:
    """Return `summary` of encoded rows."""
    overall, by_group = np.split(rows.counts(predictions), [1])
    auc = float("nan")
    if scores is not None:
        auc, _ = auc_and_variance(auc_components(rows.labels.codes, scores))
    group = worst_group(by_group, rows.names)
    cell = worst_cell(by_group, rows.names, rows.labels.values)
    figures: dict[str, float | str | int] = {
        "accuracy": rate(overall, "accuracy").item(),
        "balanced_accuracy": balanced_accuracy(overall).item(),
        "auc": auc,
        "selection_rate": rate(overall, "selection_rate").item(),
        "worst_group_accuracy": group.value,
        "worst_group": group.name,
        "worst_cell_accuracy": cell.value,
        "worst_cell": cell.name,
        "worst_cell_n": cell.n,
    }
    for name in ("equalized_odds_difference", "demographic_parity_difference"):
        figures[name] = gap(by_group, rows.names, name).value
    return figures
