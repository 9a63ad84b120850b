"""The result of an audit: tables, their differences and ratios, and what is written of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd

Method: TypeAlias = Literal["between_groups", "to_overall"]


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of `audit`; every figure that is undefined is NaN.

    Attributes:
        overall: Each figure on all rows, a Series.
        by_group: One row a group, indexed as MetricFrame's; columns ``n`` (rows), with weights
            ``weight`` (their sum), and the figures. A combination of levels without rows has
            ``n`` 0.
        cells: Rows of each (group, label) cell, indexed as `by_group`; one column a label value.
            None in a regression.
        intervals: Indexed by ``group`` ("overall", "sex=female", ...) and ``metric``; columns
            ``value, low, high``, ``method`` (of the bounds) and ``n`` (rows that it looks at).
        disparities: Each group against the reference group, indexed by ``group`` and ``metric``;
            columns ``difference`` (signed: group minus reference), ``low``, ``high``, ``ratio``,
            ``ratio_low``, ``ratio_high``.
        gaps: The largest difference between groups, indexed by its name; columns ``value``,
            ``rate`` (the rate that has it), ``lowest``, ``highest`` (group names) and ``p``.
        worst: ``worst_group_accuracy`` and ``worst_cell_accuracy``, or ``worst_group_mae``; columns
            ``value``, ``name``, ``n`` (rows) and ``bound``, which no group (cell) is below, or
            above in an error.
        calibration: Indexed by ``group`` and ``bin`` (1 to 10, of equal width); columns ``n``,
            ``mean_score``, ``observed`` (share of the favourable label), ``low``, ``high``. None
            without probabilities of two labels.
        sweep: Indexed by ``group`` and ``threshold``, descending from infinity; columns ``n``,
            ``selection_rate``, ``tpr``, ``fpr``, ``accuracy``, ``precision``. None without scores
            of two labels.
        matched: Each group cut where its selection rate is nearest to that of all rows, indexed by
            ``group``; columns as `sweep`'s and ``threshold``. None without scores of two labels.
        warnings: What to know before reading the figures.
        settings: What the audit was called with, the rows' hash, and versions.
    """

    overall: "pd.Series[float]"
    by_group: pd.DataFrame
    cells: pd.DataFrame | None
    intervals: pd.DataFrame
    disparities: pd.DataFrame
    gaps: pd.DataFrame
    worst: pd.DataFrame
    calibration: pd.DataFrame | None
    sweep: pd.DataFrame | None
    matched: pd.DataFrame | None
    warnings: list[str]
    settings: dict[str, Any]

    def group_min(self) -> "pd.Series[float]":
        """Return the least value of each figure over the groups that have rows; NaN if one is."""
        return self._present().min(skipna=False)

    def group_max(self) -> "pd.Series[float]":
        """Return the largest value of each figure over the groups that have rows; NaN if one is."""
        return self._present().max(skipna=False)

    def difference(self, method: Method = "between_groups") -> "pd.Series[float]":
        """Return the largest difference of each figure, as MetricFrame's method of this name.

        Args:
            method: "between_groups": the largest minus the least value; "to_overall": the largest
                distance of a group from all rows.

        Returns:
            One value a figure, NaN where the figure is undefined in a group that has rows
            (MetricFrame leaves such groups out).

        Raises:
            ValueError: If the method is another one.
        """
        if _checked(method) == "between_groups":
            return self.group_max() - self.group_min()
        return (self._present() - self.overall).abs().max(skipna=False)

    def ratio(self, method: Method = "between_groups") -> "pd.Series[float]":
        """Return the least ratio of each figure, as MetricFrame's method of this name.

        Args:
            method: "between_groups": the least over the largest value; "to_overall": the least of
                every group's value over that of all rows and its inverse.

        Returns:
            One value a figure; NaN where the figure is undefined in a group that has rows, or 0 is
            divided by 0.

        Raises:
            ValueError: If the method is another one.
        """
        if _checked(method) == "between_groups":
            return self.group_min() / self.group_max()
        ratios = self._present() / self.overall
        return ratios.where(ratios <= 1, 1 / ratios).min(skipna=False)

    def _present(self) -> pd.DataFrame:
        has_rows = self.by_group["n"].ne(0).fillna(True).to_numpy(bool)  # hidden ones too
        return self.by_group.loc[has_rows, list(self.overall.index)]

    def suppress(self, below: int) -> "Audit":
        """Return the audit without what gives small cells away.

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
        from ._suppress import suppress

        return suppress(self, below)

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = ("html", "md", "json", "csv"),
        *,
        suppress_below: int | None = None,
        thresholds: str | Path | None = None,
    ) -> dict[str, Path]:
        """Write the audit as report.html, report.md, report.json and one CSV a table.

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
        from ._report._audit_page import audit_report
        from ._report._model_card import model_card

        audit = self if suppress_below is None else self.suppress(suppress_below)
        report = audit_report(audit, pictures="html" in formats, thresholds=thresholds)
        return replace(report, markdown_files={"model_card.md": model_card(audit)}).save(
            folder, formats
        )


def _checked(method: str) -> str:
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {get_args(Method)}, got {method!r}.")
    return method
