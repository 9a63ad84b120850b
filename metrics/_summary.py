"""One model on one set of rows, as a few numbers."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._gaps import group_means, label_gaps, number_gaps
from ._rates import Floats, accuracy, balanced_accuracy, share
from ._regression import Moments
from ._rows import Rows, encode_rows
from ._scores import auc_and_influence, encode_scores
from ._worst import worst_cell, worst_group

Summary: TypeAlias = dict[str, float | str | int]


def summary(y_true: Any, y_pred: Any, *, sensitive_features: Any, y_score: Any = None) -> Summary:
    r"""Return the figures that one row of a trade-off table shows, without intervals.

    .. math::
        \text{worst cell accuracy} = \min_{g, y} \Pr(\hat y = y \mid g, y), \qquad
        \text{equalized odds difference} =
        \max_y \bigl( \max_g - \min_g \bigr) \Pr(\hat y = 1 \mid g, y)

    What is undefined is NaN: ``auc`` without scores, ``balanced_accuracy`` and ``auc`` with one
    label only, a gap where a group lacks the rows that it is about. Worst group and worst cell are
    taken over those that have rows. Rows with a missing sensitive feature count in the overall
    figures and in no group.

    Args:
        y_true: The truth of each row, as in `audit`.
        y_pred: The prediction for each row, likewise.
        sensitive_features: One value a row, or one column a feature; several make intersections.
        y_score: Scores as in `audit`; None leaves ``auc`` NaN.

    Returns:
        Figures by name. Of two labels, as shares in [0, 1], ``accuracy``, ``balanced_accuracy``,
        ``auc``, ``selection_rate``, ``worst_group_accuracy``, ``worst_cell_accuracy``; gaps in
        [0, 1], 0 = none, ``equalized_odds_difference``, ``demographic_parity_difference``; names,
        ``worst_group``, ``worst_cell``; the rows of that cell, ``worst_cell_n``. Several labels
        have no ``selection_rate``. Numbers have ``mae``, ``rmse``, ``bias``, ``r2``,
        ``worst_group_mae``, ``worst_group``, ``mae_difference`` and ``bias_difference``.

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
    rows = encode_rows(y_true, {"y_pred": y_pred}, sensitive_features)
    scores = None if y_score is None else encode_scores(y_score, rows)
    return summarise(rows, rows.predictions["y_pred"], scores)


def summarise(rows: Rows, predictions: NDArray[Any], scores: Floats | None) -> Summary:
    """Return `summary` of encoded rows."""
    if rows.task == "regression":
        return _of_numbers(rows, predictions)
    tally = rows.tally(predictions)
    overall, groups = tally.at(0), tally.at(slice(1, None))
    group = worst_group(groups, rows.names)
    cell = worst_cell(groups, rows.names, rows.values)
    gaps = label_gaps(groups, rows.names, rows.values)
    auc = np.nan
    if scores is not None:
        auc, _ = auc_and_influence(rows.truth, scores, rows.each_weight())
    figures: Summary = {
        "accuracy": float(accuracy(overall).value),
        "balanced_accuracy": float(balanced_accuracy(overall)),
        "auc": auc,
    }
    if rows.task == "binary":
        figures["selection_rate"] = float(share(overall, "selection_rate").value)
    return figures | {
        "worst_group_accuracy": group.value,
        "worst_group": group.name,
        "worst_cell_accuracy": cell.value,
        "worst_cell": cell.name,
        "worst_cell_n": cell.n,
        "equalized_odds_difference": gaps["equalized_odds_difference"].value,
        "demographic_parity_difference": gaps["demographic_parity_difference"].value,
    }


def _of_numbers(rows: Rows, predictions: Floats) -> Summary:
    moments = Moments.of(rows.truth, predictions, rows.each_weight())
    figures = moments.figures(moments.each.mean(0))
    gaps = number_gaps(rows, predictions)
    by_group = group_means(rows, np.abs(predictions - rows.truth))
    worst = int(np.nanargmax(by_group))
    return {
        **{name: float(figures[name]) for name in ("mae", "rmse", "bias", "r2")},
        "worst_group_mae": float(by_group[worst]),
        "worst_group": rows.names[worst],
        "mae_difference": gaps["mae_difference"].value,
        "bias_difference": gaps["bias_difference"].value,
    }
