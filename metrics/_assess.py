"""Labels, predictions and groups -> an audit."""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._audit import Audit
from ._exceptions import MetricsWarning
from ._figures import Figure, binary_figures, multiclass_figures
from ._flags import (
    flag_small_cells,
    flag_small_groups,
    flag_trivial,
    flag_undefined,
    flag_unknown,
)
from ._frames import (
    by_group_frame,
    calibration_by_group,
    cells_frame,
    disparities_frame,
    intervals_frame,
    matched_by_group,
    sweep_by_group,
)
from ._gaps import label_gaps_frame, number_gaps_frame
from ._named import Metric, find_metrics, named_figures
from ._options import Options
from ._rates import Floats, Ints, share
from ._regression import regression_figures
from ._rows import Rows, encode_rows
from ._scores import by_score, encode_scores, score_figures
from ._worst import worst_accuracies, worst_error


def audit(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    y_score: Any = None,
    sample_weight: Any = None,
    task: str = "auto",
    metrics: str | Iterable[str] | Mapping[str, Metric] = (),
    favourable: Any = None,
    reference: str | None = None,
    confidence: float = 0.95,
    n_boot: int = 10_000,
    min_group_size: int = 30,
    random_state: int = 0,
) -> Audit:
    r"""Assess predictions group by group, with intervals, gaps and flags.

    Rates are functions of the cells (group, label, prediction), of rows or of their weights:

    .. math::
        \text{tpr}_g = \frac{n_{g11}}{n_{g10} + n_{g11}}, \quad
        \text{fpr}_g = \frac{n_{g01}}{n_{g00} + n_{g01}}, \quad
        \text{selection rate}_g = \frac{n_{g01} + n_{g11}}{n_g}, \quad \ldots

    Of several labels there are the rates of each against the rest, as ``tpr[cat]``, and means of
    them; of numbers the mean absolute error, the root of the mean squared error, the bias (mean of
    prediction minus truth) and R2. A figure without rows is NaN, and so is every difference, ratio
    and gap made from it. Rows with a missing sensitive feature count in the overall figures and in
    no group, with a `MetricsWarning`.

    Intervals: Wilson for rates, at the lesser of Kish's and the linearised effective size where
    rows have weights; a bootstrap of the cells for means over labels, and of the rows for Brier
    score, log loss and the figures of a regression; DeLong for AUC, on the scale of log-odds; none
    for the calibration error, which is biased upwards.
    Differences and ratios between groups are made from the groups' intervals. A gap, being a
    maximum over groups, has no interval but a permutation p: the share of data sets with shuffled
    groups (for equalized odds, shuffled within each label) that show at least this gap. All of
    them cover the draw of the rows, with the model fixed.

    Args:
        y_true: The truth of each row: two labels or more of any kind, or numbers.
        y_pred: The prediction for each row, likewise.
        sensitive_features: Series, DataFrame, array, list or dict: one value a row, or one column a
            feature; several columns make intersections.
        y_score: Score of the favourable label for each row, or of each label in ascending order,
            (N, C); None for none. AUC takes any scale, all other figures take probabilities.
        sample_weight: What each row counts, 0 or more; None counts each once.
        task: "binary", "multiclass" or "regression"; "auto" takes floats that are not all whole
            for numbers, two labels for binary, and more for multiclass.
        metrics: Further metrics: names of functions of ``fairlearn.metrics`` or
            ``sklearn.metrics``, or functions of your own by name. Called as
            ``metric(y_true, y_pred)``, or with the scores where its second parameter is
            ``y_score`` or ``y_proba``; two labels are given as 0 and 1 = favourable. What
            scikit-learn warns to be undefined is NaN. Intervals by a bootstrap of 100 to 500 draws.
        favourable: Of two labels the one that counts as 1; None takes the greater one.
        reference: Name of the group that the others are compared with, as "sex=male"; None takes
            the one with the most rows.
        confidence: Coverage aimed at by intervals and bounds, in (0, 1).
        n_boot: Draws of each bootstrap, and relabellings behind each permutation p, which is at
            least 1 / (n_boot + 1). Thousands of groups, or many weighted rows, get fewer.
        min_group_size: Rows below which a (group, label) cell is flagged.
        random_state: Seed of the draws.

    Returns:
        An `Audit`.

    Raises:
        TypeError: If a metric is not a function.
        ValueError: If labels, predictions and scores do not fit the task or each other, values are
            missing or not finite, lengths differ, a sensitive feature is (nearly) unique per row,
            a metric is unknown or cannot be called, or an option is out of range.

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
    rows = encode_rows(
        y_true,
        {"y_pred": y_pred},
        sensitive_features,
        task=task,
        favourable=favourable,
        sample_weight=sample_weight,
    )
    scores = None if y_score is None else encode_scores(y_score, rows)
    for message in flag_unknown(rows.n_unknown, rows.n_rows):
        warn(message, MetricsWarning, stacklevel=2)
    return audit_rows(rows, rows.predictions["y_pred"], scores, find_metrics(metrics), options)


def audit_rows(
    rows: Rows,
    predictions: NDArray[Any],
    scores: Floats | None,
    metrics: Mapping[str, Metric],
    options: Options,
) -> Audit:
    """Audit one model on encoded rows."""
    rng = np.random.default_rng(options.random_state)
    found = (
        _of_numbers(rows, predictions, options, rng)
        if rows.task == "regression"
        else _of_labels(rows, predictions, scores, options, rng)
    )
    added, notes = named_figures(
        metrics, rows, predictions, scores, options.confidence, options.n_boot, rng
    )
    if taken := set(added) & {*found.figures, "n", "weight"}:
        raise ValueError(f"`metrics` must have names of their own, {sorted(taken)} are taken.")
    figures = found.figures | added
    reference = _reference(rows, options.reference)
    return Audit(
        overall=pd.Series({name: float(f.interval.value[0]) for name, f in figures.items()}),
        by_group=by_group_frame(rows, figures),
        cells=found.cells,
        intervals=intervals_frame(rows.names, figures),
        disparities=disparities_frame(rows.names, figures, reference),
        gaps=found.gaps,
        worst=found.worst,
        calibration=found.calibration,
        sweep=found.sweep,
        matched=found.matched,
        warnings=[*flag_unknown(rows.n_unknown, rows.n_rows), *found.warnings, *notes],
        settings={
            "task": rows.task,
            "n_rows": rows.n_rows,
            "n_unknown": rows.n_unknown,
            "labels": list(rows.values),
            "favourable": rows.values[1] if rows.task == "binary" else None,
            "weighted": rows.weights is not None,
            "metrics": list(metrics),
            **asdict(options),
            "reference": rows.names[reference],
            "data_sha256": _hash(rows, predictions, scores),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("fairclip", "numpy", "pandas")},
            },
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the task decides of an audit."""

    figures: dict[str, Figure]
    gaps: pd.DataFrame
    worst: pd.DataFrame
    warnings: list[str]
    cells: pd.DataFrame | None = None
    calibration: pd.DataFrame | None = None
    sweep: pd.DataFrame | None = None
    matched: pd.DataFrame | None = None


def _of_labels(
    rows: Rows,
    predictions: Ints,
    scores: Floats | None,
    options: Options,
    rng: np.random.Generator,
) -> _Found:
    tally = rows.tally(predictions)
    groups = tally.at(slice(1, None))
    confidence, n_boot = options.confidence, options.n_boot
    is_binary = rows.task == "binary"
    figures = (
        binary_figures(tally, confidence)
        if is_binary
        else multiclass_figures(tally, rows.values, confidence, n_boot, rng)
    )
    selection_rate = float(share(tally, "selection_rate").value[0]) if is_binary else np.nan
    flags = [
        *flag_small_cells(groups.n.sum(2), rows.names, rows.values, options.min_group_size),
        *flag_undefined(groups.n, rows.names, rows.values),
    ]
    if is_binary:
        base_rate = float(figures["base_rate"].interval.value[0])
        balanced = float(figures["balanced_accuracy"].interval.value[0])
        flags += flag_trivial(balanced, selection_rate, base_rate)
    curves: dict[str, pd.DataFrame | None] = {}
    if scores is not None:
        ordered, scores = by_score(rows, scores) if is_binary else (rows, scores)
        figures |= score_figures(ordered, scores, confidence, n_boot, rng)
        if is_binary:
            curves = {
                "calibration": calibration_by_group(ordered, scores, confidence),
                "sweep": sweep_by_group(ordered, scores),
                "matched": matched_by_group(ordered, scores, selection_rate),
            }
    return _Found(
        figures=figures,
        gaps=label_gaps_frame(rows, predictions, groups, n_boot, rng),
        worst=worst_accuracies(groups, rows.names, rows.values, confidence),
        warnings=flags,
        cells=cells_frame(rows, tally),
        **curves,
    )


def _of_numbers(
    rows: Rows, predictions: Floats, options: Options, rng: np.random.Generator
) -> _Found:
    confidence, n_boot = options.confidence, options.n_boot
    figures = regression_figures(rows, predictions, confidence, n_boot, rng)
    # One-sided bounds are those of an interval that leaves twice as much out.
    one_sided = regression_figures(rows, predictions, 2 * confidence - 1, n_boot, rng)["mae"]
    return _Found(
        figures=figures,
        gaps=number_gaps_frame(rows, predictions, n_boot, rng),
        worst=worst_error(one_sided.interval, one_sided.n, rows.names),
        warnings=flag_small_groups(rows.group_sizes(), rows.names, options.min_group_size),
    )


def _reference(rows: Rows, reference: str | None) -> int:
    if reference is None:
        return int(rows.group_sizes().argmax())
    if reference not in rows.names:
        raise ValueError(
            f"`reference` must be a group that has rows, got {reference!r}. There are: "
            f"{'; '.join(rows.names[:10])}."
        )
    return rows.names.index(reference)


def _hash(rows: Rows, predictions: NDArray[Any], scores: Floats | None) -> str:
    digest = hashlib.sha256(repr((rows.groups.names, rows.values)).encode())
    columns = (rows.groups.codes, rows.truth, predictions, scores, rows.weights, rows.repeats)
    for column in columns:
        if column is not None:
            digest.update(column.tobytes())
    return digest.hexdigest()
