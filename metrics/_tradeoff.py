"""Several models on the same rows, against one of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd

from ._assess import audit_rows
from ._audit import Audit
from ._exceptions import MetricsWarning
from ._flags import flag_levelling_down, flag_unknown
from ._frames import OVERALL, long_frame, select
from ._intervals import Interval
from ._named import Metric, Model, find_metrics, named_changes
from ._options import Options
from ._paired import label_changes, number_changes, score_changes
from ._pareto import pareto_front
from ._rates import Floats
from ._rows import Rows, encode_rows
from ._scores import encode_scores
from ._summary import Summary, summarise
from ._sweep import matched_row


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """The result of `tradeoff`; every figure that is undefined is NaN.

    Attributes:
        table: One row an arm: the figures of `summary`, and ``pareto``: no other arm is at least
            as good in accuracy and in worst cell accuracy (in mean absolute error and that of the
            worst group), and better in one.
        changes: Indexed by ``arm``, ``group`` ("overall", "sex=female", ...) and ``metric``;
            columns ``baseline``, ``candidate``, ``change`` (candidate minus baseline), ``low``,
            ``high``. One block for each arm but the baseline.
        matched: The figures of `summary` with each arm's scores cut where it selects as large a
            share of all rows as the baseline does, one row an arm. None without scores of two
            labels.
        audits: The `Audit` of each arm, by its name.
        warnings: What to know before reading the figures.
        settings: What the comparison was called with, the rows' hash, and versions.
    """

    table: pd.DataFrame
    changes: pd.DataFrame
    matched: pd.DataFrame | None
    audits: dict[str, Audit]
    warnings: list[str]
    settings: dict[str, Any]

    def suppress(self, below: int) -> "Tradeoff":
        """Return the comparison without what gives small cells away.

        Hidden are groups with a (group, label) cell of fewer rows than ``below``, the smallest
        other groups until the hidden rows cannot be worked out from the totals, gaps and worst
        groups if any group is hidden, and the curves of the score in any case. What is hidden is
        NaN. What all hidden rows have in common can still be read off the figures of all rows: that
        all of them were predicted 1, say; and who knows this rule can sometimes exclude all but one
        count.

        Args:
            below: Rows, 0 or more.

        Returns:
            A copy.

        Raises:
            ValueError: If ``below`` is negative, small cells are hidden already, or the totals
                alone give each group's rows away.
        """
        from ._suppress import suppress_tradeoff

        return suppress_tradeoff(self, below)

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = ("html", "md", "json", "csv"),
        *,
        suppress_below: int | None = None,
        thresholds: str | Path | None = None,
    ) -> dict[str, Path]:
        """Write the comparison as report.html, report.md, report.json and one CSV a table.

        With report.md comes model_card.md, the sections of a model card that the figures can fill.

        Args:
            folder: Where to write; made if missing, other files in it are left alone.
            formats: Any of html, md, json, csv.
            suppress_below: Hide small cells as `suppress` does; None hides nothing.
            thresholds: A TOML file of thresholds, as `read_thresholds` takes it; None is the one
                that comes with fairclip.

        Returns:
            The path of each file, by its name.

        Raises:
            ValueError: If a format is unknown, ``suppress_below`` is negative, or the thresholds
                cannot be read.
        """
        from ._report._model_card import model_card
        from ._report._tradeoff_page import tradeoff_report

        found = self if suppress_below is None else self.suppress(suppress_below)
        report = tradeoff_report(found, pictures="html" in formats, thresholds=thresholds)
        return replace(report, markdown_files={"model_card.md": model_card(found)}).save(
            folder, formats
        )


def tradeoff(
    y_preds: Mapping[str, Any],
    y_true: Any,
    *,
    sensitive_features: Any,
    y_scores: Mapping[str, Any] | None = None,
    sample_weight: Any = None,
    task: str = "auto",
    metrics: str | Iterable[str] | Mapping[str, Metric] = (),
    baseline: str = "unclipped",
    favourable: Any = None,
    reference: str | None = None,
    confidence: float = 0.95,
    n_boot: int = 10_000,
    min_group_size: int = 30,
    random_state: int = 0,
) -> Tradeoff:
    r"""Compare models on the same rows: what each group gained and lost against a baseline.

    .. math:: \Delta_g = m_g(\hat y_{candidate}, y) - m_g(\hat y_{baseline}, y)

    Changes are paired by row: the interval of a rate's change comes from the rows whose prediction
    changed (Agresti and Min), that of the AUC from DeLong's paired components, all others from
    drawing the rows, or cells of equal rows, with both models' predictions on them. Models with the
    same predictions have a change of 0, rates with a narrow interval around it.
    The intervals cover the draw of the rows, with the models fixed: training again adds to them
    (`over_seeds`).

    Args:
        y_preds: The predictions of each model, by its name.
        y_true: The truth of each row, as in `audit`.
        sensitive_features: As in `audit`.
        y_scores: Scores by model, as in `audit`, for the same names, or None.
        sample_weight: As in `audit`.
        task: As in `audit`.
        metrics: As in `audit`.
        baseline: The name that the others are compared with.
        favourable: Of two labels the one that counts as 1; None takes the greater one.
        reference: The reference group of the audits; None takes the one with the most rows.
        confidence: Coverage aimed at by intervals and bounds, in (0, 1).
        n_boot: Draws of each bootstrap, and relabellings behind each permutation p of the audits.
        min_group_size: Rows below which a (group, label) cell is flagged.
        random_state: Seed of the draws.

    Returns:
        A `Tradeoff`.

    Raises:
        ValueError: On input that `audit` refuses, if the baseline is not among the models, or if
            scores and predictions are not of the same models.

    Source:
        A. Agresti, Y. Min (2005), https://doi.org/10.1002/sim.1781; DeLong et al. (1988),
        https://doi.org/10.2307/2531595.

    Example:
        >>> from fairclip.metrics import tradeoff
        >>> found = tradeoff(
        ...     {"unclipped": [0, 1, 0, 0], "cap": [0, 1, 0, 1]},
        ...     [0, 1, 0, 1],
        ...     sensitive_features={"sex": ["f", "f", "m", "m"]},
        ... )
        >>> found.changes.loc[("cap", "sex=m", "tpr"), ["baseline", "candidate", "change"]].tolist()
        [0.0, 1.0, 1.0]
    """
    options = Options(reference, confidence, n_boot, min_group_size, random_state)
    _check_arms(y_preds, y_scores, baseline)
    columns = {f"y_preds[{arm!r}]": y_pred for arm, y_pred in y_preds.items()}
    rows = encode_rows(
        y_true,
        columns,
        sensitive_features,
        task=task,
        favourable=favourable,
        sample_weight=sample_weight,
    )
    predictions = dict(zip(y_preds, rows.predictions.values(), strict=True))
    scores = {
        arm: encode_scores(y_score, rows, f"y_scores[{arm!r}]")
        for arm, y_score in (y_scores or {}).items()
    }
    added = find_metrics(metrics)
    for message in flag_unknown(rows.n_unknown, rows.n_rows):
        warn(message, MetricsWarning, stacklevel=2)
    audits = {
        arm: audit_rows(rows, predictions[arm], scores.get(arm), added, options)
        for arm in predictions
    }
    table = _table({arm: summarise(rows, predictions[arm], scores.get(arm)) for arm in predictions})
    if rows.task == "regression":
        errors = ["mae", "worst_group_mae"]
        table["pareto"] = pareto_front(-table[errors], errors)
    else:
        table["pareto"] = pareto_front(table)
    models = {arm: (predictions[arm], scores.get(arm)) for arm in predictions}
    return Tradeoff(
        table=table,
        changes=_changes(rows, models, added, audits, baseline, options),
        matched=_matched(rows, scores, audits[baseline]) if rows.task == "binary" else None,
        audits=audits,
        warnings=_warnings(audits, baseline),
        settings=audits[baseline].settings | {"baseline": baseline},
    )


def _table(figures: Mapping[str, Summary]) -> pd.DataFrame:
    return pd.DataFrame(list(figures.values()), index=pd.Index(list(figures), name="arm"))


def _matched(rows: Rows, scores: Mapping[str, Floats], baseline: Audit) -> pd.DataFrame | None:
    if not scores:
        return None
    found = {}
    for arm, score in scores.items():
        rate = baseline.overall["selection_rate"]
        cut = matched_row(rows.truth, score, rows.each_weight(), rate)["threshold"]
        found[arm] = summarise(rows, (score >= cut).astype(np.int64), score)
    return _table(found)


def _check_arms(
    y_preds: Mapping[str, Any], y_scores: Mapping[str, Any] | None, baseline: str
) -> None:
    if baseline not in y_preds:
        raise ValueError(f"`baseline` must be one of {list(y_preds)}, got {baseline!r}.")
    if y_scores is not None and set(y_scores) != set(y_preds):
        raise ValueError(
            f"`y_scores` must be of the models in `y_preds`, {list(y_preds)}, got {list(y_scores)}."
        )


def _changes(
    rows: Rows,
    models: Mapping[str, Model],
    added: Mapping[str, Metric],
    audits: Mapping[str, Audit],
    baseline: str,
    options: Options,
) -> pd.DataFrame:
    blocks = {}
    for arm in [arm for arm in models if arm != baseline] or [baseline]:
        changes = _changes_of(rows, models[baseline], models[arm], added, options)
        frame = long_frame([OVERALL, *rows.names], changes).rename(columns={"value": "change"})
        frame.insert(0, "baseline", audits[baseline].intervals["value"].reindex(frame.index))
        frame.insert(1, "candidate", audits[arm].intervals["value"].reindex(frame.index))
        blocks[arm] = frame
    frame = pd.concat(blocks, names=["arm"])
    return frame.drop(index=baseline, level="arm", errors="ignore")


def _changes_of(
    rows: Rows, before: Model, after: Model, added: Mapping[str, Metric], options: Options
) -> dict[str, Interval]:
    rng = np.random.default_rng(options.random_state)
    confidence, n_boot = options.confidence, options.n_boot
    (old, old_scores), (new, new_scores) = before, after
    if rows.task == "regression":
        changes = number_changes(rows, old, new, confidence, n_boot, rng)
    else:
        changes = label_changes(rows, old, new, confidence, n_boot, rng)
    if old_scores is not None and new_scores is not None:
        changes |= score_changes(rows, old_scores, new_scores, confidence, n_boot, rng)
    return changes | named_changes(added, rows, before, after, confidence, n_boot, rng)


def _warnings(audits: Mapping[str, Audit], baseline: str) -> list[str]:
    """Say once what holds for every arm, and the rest with the arm's name."""
    of_arm = {arm: list(found.warnings) for arm, found in audits.items()}
    for arm, found in audits.items():
        for metric in found.overall.index.intersection(["accuracy", "tpr"]):
            before = select(audits[baseline].intervals, metric=metric)["value"]
            after = select(found.intervals, metric=metric)["value"]
            of_arm[arm] += flag_levelling_down(before.drop(OVERALL), after.drop(OVERALL), metric)
    shared = [m for m in of_arm[baseline] if all(m in found for found in of_arm.values())]
    own = [f"{arm}: {m}" for arm, found in of_arm.items() for m in found if m not in shared]
    return shared + own
