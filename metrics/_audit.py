"""One model, group by group."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._exceptions import MetricsWarning
from ._flags import flag_small_cells, flag_trivial, flag_undefined, flag_unknown
from ._frames import (
    by_group_frame,
    cells_frame,
    disparities_frame,
    gaps_frame,
    intervals_frame,
    rate_intervals,
    worst_frame,
)
from ._intervals import two_sided
from ._labels import encode_predictions, encode_scores
from ._options import Options
from ._rows import Rows, encode_rows
from ._scores import score_intervals


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of `audit`; every figure that is undefined is NaN.

    Attributes:
        overall: Each figure on all rows, a Series.
        by_group: One row a group, indexed as MetricFrame's; columns ``n`` (rows) and the figures.
            A combination of levels without rows has ``n`` 0.
        cells: Rows of each (group, label) cell, indexed as `by_group`; one column a label value.
        intervals: Indexed by ``group`` ("overall", "sex=female", ...) and ``metric``; columns
            ``value, low, high, method``.
        disparities: Each group against the reference group, indexed by ``group`` and ``metric``;
            columns ``difference`` (signed: group minus reference), ``low``, ``high``, ``ratio``.
        gaps: The largest difference between groups, indexed by its name; columns ``value``,
            ``rate`` (the rate that has it), ``lowest``, ``highest`` (group names) and ``p``.
        worst: ``worst_group_accuracy`` and ``worst_cell_accuracy``; columns ``value``, ``name``,
            ``n`` (rows) and ``lower_bound``, which no group (cell) is below.
        warnings: What to know before reading the figures.
        settings: What the audit was called with, the rows' hash, and versions.
    """

    overall: "pd.Series[float]"
    by_group: pd.DataFrame
    cells: pd.DataFrame
    intervals: pd.DataFrame
    disparities: pd.DataFrame
    gaps: pd.DataFrame
    worst: pd.DataFrame
    warnings: list[str]
    settings: dict[str, Any]

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = ("html", "md", "json", "csv"),
        *,
        suppress_below: int | None = None,
    ) -> dict[str, Path]:
        """Write the audit as report.html, report.md, report.json and one CSV a table.

        Args:
            folder: Where to write; made if missing, other files in it are left alone.
            formats: Any of html, md, json, csv.
            suppress_below: Hide groups with a (group, label) cell of fewer rows than this, and a
                further group where the hidden one could be worked out from the totals. None hides
                nothing.

        Returns:
            The path of each file, by its name.

        Raises:
            ValueError: If a format is unknown or `suppress_below` is negative.
        """
        from ._report._pages import audit_report
        from ._suppress import suppress

        audit = self if suppress_below is None else suppress(self, suppress_below)
        return audit_report(audit, pictures="html" in formats).save(folder, formats)


def audit(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    y_score: Any = None,
    favourable: Any = None,
    reference: str | None = None,
    confidence: float = 0.95,
    n_boot: int = 10_000,
    min_group_size: int = 30,
    random_state: int = 0,
) -> Audit:
    r"""Assess predictions group by group, with intervals, gaps and flags.

    All rates are functions of the counts of (group, label, prediction):

    .. math::
        \text{tpr}_g = \frac{n_{g11}}{n_{g10} + n_{g11}}, \quad
        \text{fpr}_g = \frac{n_{g01}}{n_{g00} + n_{g01}}, \quad
        \text{selection rate}_g = \frac{n_{g01} + n_{g11}}{n_g}, \quad \ldots

    A rate without rows is NaN, and so is every difference, ratio and gap made from it. Rows with a
    missing sensitive feature count in the overall figures and in no group, with a `MetricsWarning`.

    Intervals: Wilson for rates; square-and-add of Wilson's for balanced accuracy and for
    differences between groups (a percentile bootstrap covers 46 % instead of 95 % for a group of 12
    rows that are nearly all right); DeLong for AUC; the normal approximation for the Brier score;
    none for the calibration error. A gap, being a maximum over groups, has no interval but a
    permutation p: the share of data sets with shuffled groups (for equalized odds, shuffled within
    each label) that show at least this gap. They cover the draw of the rows, with the model fixed.

    Args:
        y_true: The label of each row; any two values.
        y_pred: The prediction for each row, of the same two values.
        sensitive_features: Series, DataFrame, array, list or dict: one value a row, or one column a
            feature; several columns make intersections.
        y_score: Score of the favourable label for each row, or None; AUC takes any scale, Brier
            score and calibration error probabilities.
        favourable: The label value that counts as 1; None takes the greater one.
        reference: Name of the group that the others are compared with, as "sex=male"; None takes
            the one with the most rows.
        confidence: Coverage aimed at by intervals and bounds, in (0, 1).
        n_boot: Random relabellings behind each permutation p; p is at least 1 / (n_boot + 1).
        min_group_size: Rows below which a (group, label) cell is flagged.
        random_state: Seed of the relabellings.

    Returns:
        An `Audit`.

    Raises:
        ValueError: If labels do not have two values or predictions others, values are missing,
            lengths differ, a sensitive feature is (nearly) unique per row, or an option is out of
            range.

    Source:
        Wilson (1927), https://doi.org/10.2307/2276774; Newcombe (1998), method 10,
        https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I; DeLong et
        al. (1988), https://doi.org/10.2307/2531595. Rates agree with fairlearn's MetricFrame where
        that is defined; it has 0 where a rate is undefined.

    Example:
        >>> from fairclip.metrics import audit
        >>> found = audit(
        ...     [0, 1, 0, 1], [0, 1, 0, 0], sensitive_features={"sex": ["f", "f", "m", "m"]}
        ... )
        >>> found.by_group["tpr"].to_dict()
        {'f': 1.0, 'm': 0.0}
        >>> found.gaps["lowest"]["equalized_odds_difference"]
        'sex=m'
    """
    options = Options(reference, confidence, n_boot, min_group_size, random_state)
    rows = encode_rows(y_true, sensitive_features, favourable)
    predictions = encode_predictions(y_pred, rows.labels)
    scores = None if y_score is None else encode_scores(y_score, len(predictions))
    for message in flag_unknown(rows.n_unknown, len(predictions)):
        warn(message, MetricsWarning, stacklevel=2)
    return audit_rows(rows, predictions, scores, options)


def audit_rows(
    rows: Rows,
    predictions: NDArray[np.int64],
    scores: NDArray[np.float64] | None,
    options: Options,
) -> Audit:
    """Audit encoded rows."""
    counts = rows.counts(predictions)  # (1 + K, 2, 2)
    z = two_sided(options.confidence)
    figures = rate_intervals(counts, z)
    if scores is not None:
        figures |= score_intervals(rows.labels.codes, scores, rows.codes, len(rows.names), z)
    overall = pd.Series({name: float(figure.value[0]) for name, figure in figures.items()})
    reference = _reference(rows, counts[1:], options.reference)
    values = rows.labels.values
    return Audit(
        overall=overall,
        by_group=by_group_frame(rows, counts, figures),
        cells=cells_frame(rows, counts),
        intervals=intervals_frame(rows, figures),
        disparities=disparities_frame(rows, figures, reference),
        gaps=gaps_frame(rows, counts, options.n_boot, options.random_state),
        worst=worst_frame(rows, counts, options.confidence),
        warnings=[
            *flag_unknown(rows.n_unknown, len(predictions)),
            *flag_small_cells(counts[1:], rows.names, values, options.min_group_size),
            *flag_undefined(counts[1:], rows.names, values),
            *flag_trivial(*overall[["balanced_accuracy", "selection_rate", "base_rate"]]),
        ],
        settings={
            "n_rows": len(predictions),
            "n_unknown": rows.n_unknown,
            "favourable": values[1],
            **asdict(options),
            "reference": rows.names[reference],
            "data_sha256": _hash(rows, predictions, scores),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("fairclip", "numpy", "pandas")},
            },
        },
    )


def _reference(rows: Rows, counts: NDArray[np.int64], reference: str | None) -> int:
    if reference is None:
        return int(counts.sum((1, 2)).argmax())
    if reference not in rows.names:
        raise ValueError(
            f"`reference` must be a group that has rows, got {reference!r}. There are: "
            f"{'; '.join(rows.names[:10])}."
        )
    return rows.names.index(reference)


def _hash(rows: Rows, predictions: NDArray[np.int64], scores: NDArray[np.float64] | None) -> str:
    digest = hashlib.sha256(repr((rows.groups.names, rows.labels.values)).encode())
    for column in (rows.groups.codes, rows.labels.codes, predictions, scores):
        if column is not None:
            digest.update(column.tobytes())
    return digest.hexdigest()
