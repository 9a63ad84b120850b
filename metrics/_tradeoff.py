"""Several models on the same rows, against one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._audit import Audit, audit_rows
from ._exceptions import MetricsWarning
from ._flags import flag_levelling_down, flag_unknown
from ._frames import OVERALL, long_frame, select
from ._intervals import two_sided
from ._labels import encode_predictions, encode_scores
from ._options import Options
from ._paired import paired_counts, rate_changes, score_changes
from ._pareto import pareto_front
from ._rows import Rows, encode_rows
from ._summary import summarise


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """The result of `tradeoff`; every figure that is undefined is NaN.

    Attributes:
        table: One row an arm: the figures of `summary`, and ``pareto``: no other arm is at least
            as good in accuracy and in worst cell accuracy, and better in one.
        changes: Indexed by ``arm``, ``group`` ("overall", "sex=female", ...) and ``metric``;
            columns ``baseline``, ``candidate``, ``change`` (candidate minus baseline), ``low``,
            ``high``. One block for each arm but the baseline.
        audits: The `Audit` of each arm, by its name.
        warnings: What to know before reading the figures.
        settings: What the comparison was called with, the rows' hash, and versions.
    """

    table: pd.DataFrame
    changes: pd.DataFrame
    audits: dict[str, Audit]
    warnings: list[str]
    settings: dict[str, Any]

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = ("html", "md", "json", "csv"),
        *,
        suppress_below: int | None = None,
    ) -> dict[str, Path]:
        """Write the comparison as report.html, report.md, report.json and one CSV a table.

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
        from ._report._pages import tradeoff_report
        from ._suppress import suppress_tradeoff

        found = self if suppress_below is None else suppress_tradeoff(self, suppress_below)
        return tradeoff_report(found, pictures="html" in formats).save(folder, formats)


def tradeoff(
    y_preds: Mapping[str, Any],
    y_true: Any,
    *,
    sensitive_features: Any,
    y_scores: Mapping[str, Any] | None = None,
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
    changed (Agresti and Min), that of the AUC from DeLong's paired components, that of the Brier
    score from the mean paired difference. Precision has no paired interval and is left to the
    audits. Models with the same predictions have a change of 0 with a narrow interval around it.
    The intervals cover the draw of the rows, with the models fixed: training again adds to them
    (`over_seeds`).

    Args:
        y_preds: The predictions of each model, by its name.
        y_true: The label of each row; any two values.
        sensitive_features: As in `audit`.
        y_scores: Scores of the favourable label by model, for the same names, or None.
        baseline: The name that the others are compared with.
        favourable: The label value that counts as 1; None takes the greater one.
        reference: The reference group of the audits; None takes the one with the most rows.
        confidence: Coverage aimed at by intervals and bounds, in (0, 1).
        n_boot: Random relabellings behind each permutation p of the audits.
        min_group_size: Rows below which a (group, label) cell is flagged.
        random_state: Seed of the relabellings.

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
    rows = encode_rows(y_true, sensitive_features, favourable)
    n_rows = len(rows.labels.codes)
    predictions = {
        arm: encode_predictions(y_pred, rows.labels, f"y_preds[{arm!r}]")
        for arm, y_pred in y_preds.items()
    }
    scores = {
        arm: encode_scores(y_score, n_rows, f"y_scores[{arm!r}]")
        for arm, y_score in (y_scores or {}).items()
    }
    for message in flag_unknown(rows.n_unknown, n_rows):
        warn(message, MetricsWarning, stacklevel=2)
    audits = {
        arm: audit_rows(rows, predictions[arm], scores.get(arm), options) for arm in predictions
    }
    table = pd.DataFrame.from_dict(
        {arm: summarise(rows, predictions[arm], scores.get(arm)) for arm in predictions},
        orient="index",
    ).rename_axis("arm")
    table["pareto"] = pareto_front(table)
    return Tradeoff(
        table=table,
        changes=_changes(rows, predictions, scores, audits, baseline, confidence),
        audits=audits,
        warnings=_warnings(audits, baseline),
        settings=audits[baseline].settings | {"baseline": baseline},
    )


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
    predictions: Mapping[str, NDArray[np.int64]],
    scores: Mapping[str, NDArray[np.float64]],
    audits: Mapping[str, Audit],
    baseline: str,
    confidence: float,
) -> pd.DataFrame:
    y, codes, n_groups = rows.labels.codes, rows.codes, len(rows.names)
    z = two_sided(confidence)
    blocks = {}
    for arm in predictions:
        counts = paired_counts(codes, y, predictions[baseline], predictions[arm], n_groups)
        changes = rate_changes(counts, z)
        if scores:
            changes |= score_changes(codes, y, scores[baseline], scores[arm], n_groups, z)
        frame = long_frame([OVERALL, *rows.names], changes).rename(columns={"value": "change"})
        frame.insert(0, "baseline", audits[baseline].intervals["value"].reindex(frame.index))
        frame.insert(1, "candidate", audits[arm].intervals["value"].reindex(frame.index))
        blocks[arm] = frame
    return pd.concat(blocks, names=["arm"]).drop(index=baseline, level="arm")


def _warnings(audits: Mapping[str, Audit], baseline: str) -> list[str]:
    """Say once what holds for every arm, and the rest with the arm's name."""
    of_arm = {arm: list(found.warnings) for arm, found in audits.items()}
    for arm, found in audits.items():
        for metric in ("accuracy", "tpr"):
            before = select(audits[baseline].intervals, metric=metric)["value"]
            after = select(found.intervals, metric=metric)["value"]
            of_arm[arm] += flag_levelling_down(before.drop(OVERALL), after.drop(OVERALL), metric)
    shared = [m for m in of_arm[baseline] if all(m in found for found in of_arm.values())]
    own = [f"{arm}: {m}" for arm, found in of_arm.items() for m in found if m not in shared]
    return shared + own
