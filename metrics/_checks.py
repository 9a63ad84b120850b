"""Figures of an audit against thresholds of the user's own."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ._frames import OVERALL, group_names, select

if TYPE_CHECKING:
    import pandas as pd

    from ._audit import Audit

Side = Literal["under", "over"]


@dataclass(frozen=True, slots=True)
class Check:
    """One figure and one threshold, as `check` compared them; its text is a plain line.

    Attributes:
        figure: Its name.
        value: The figure; NaN where it is undefined or hidden.
        bound: The end of its interval that was compared instead, None where none was asked for.
        threshold: What the figure may reach and not pass.
        side: Whether the check fails ``"under"`` the threshold or ``"over"`` it.
    """

    figure: str
    value: float
    bound: float | None
    threshold: float
    side: Side

    @property
    def failed(self) -> bool:
        """Whether the figure, or its bound, is beyond the threshold or undefined."""
        compared = self.value if self.bound is None else self.bound
        # 0.3 - 0.2 is not over 0.1
        if math.isclose(compared, self.threshold, rel_tol=1e-9, abs_tol=1e-12):
            return False
        return not (
            compared > self.threshold if self.side == "under" else compared < self.threshold
        )

    def __str__(self) -> str:
        if math.isnan(self.value):
            return (
                f"check failed: {self.figure} is n/a (undefined or hidden): not known to be "
                f"{'at least' if self.side == 'under' else 'at most'} {self.threshold:g}"
            )
        end = "lower" if self.side == "under" else "upper"
        bound = ""
        if self.bound is not None:
            known = "n/a" if math.isnan(self.bound) else f"{self.bound:.6g}"
            bound = f", its {end} bound {known}"
        found = f"{self.figure} is {self.value:.6g}{bound}"
        if self.failed:
            return f"check failed: {found}: {self.side} {self.threshold:g}"
        return f"check holds: {found}: not {self.side} {self.threshold:g}"


@dataclass(frozen=True, slots=True)
class _Figure:
    value: float
    low: float = math.nan
    high: float = math.nan
    has_bounds: bool = False  # of others only those that are not NaN


def check(
    audit: "Audit",
    *,
    fail_under: Mapping[str, float] | None = None,
    fail_over: Mapping[str, float] | None = None,
    use_bounds: bool = False,
) -> list[Check]:
    """Compare figures of an audit with thresholds, for tests and continuous integration.

    A figure that is at its threshold is not beyond it; one that is undefined fails. A check says
    that a figure is beyond a number that somebody chose, and nothing about why, nor what the
    figures that it does not name do: a lower equalized odds difference can be had by finding fewer
    people of every group.

    Args:
        audit: Of one model; of a comparison, one of its ``audits``.
        fail_under: The least that a figure may be, by its name: one of ``audit.overall``, of
            ``audit.worst``, of ``audit.gaps``, or one of a group, as ``"tpr[sex=female]"``.
        fail_over: The most that a figure may be, by its name.
        use_bounds: Compare the end of the figure's interval instead: the lower one in
            ``fail_under``, the upper one in ``fail_over``. The check then fails unless the
            rows are enough to tell that the figure is not beyond its threshold, and where they are
            too few for a bound.

    Returns:
        A `Check` for each threshold, those of ``fail_under`` first; ``check.failed`` tells, and
        ``str(check)`` is a line to print.

    Raises:
        ValueError: If there is no figure of a name, a threshold is not finite, or bounds are asked
            for a figure that has none on that side (a gap has none at all).

    Example:
        >>> from fairclip.metrics import audit, check
        >>> found = audit([0, 1, 0, 1], [0, 1, 0, 0], sensitive_features=["f", "f", "m", "m"])
        >>> for line in check(found, fail_under={"worst_group_accuracy": 0.6}):
        ...     print(line)
        check failed: worst_group_accuracy is 0.5: under 0.6
    """
    figures = dict(_figures(audit))
    sides: dict[Side, Mapping[str, float]] = {"under": fail_under or {}, "over": fail_over or {}}
    checks = []
    for side, thresholds in sides.items():
        for name, threshold in thresholds.items():
            if not math.isfinite(threshold):
                raise ValueError(f"The threshold of `{name}` must be finite, got {threshold}.")
            if name not in figures:
                raise ValueError(f"There is no figure `{name}`. There are: {_listed(audit)}.")
            figure = figures[name]
            bound = _bound(name, figure, side) if use_bounds else None
            checks.append(Check(name, figure.value, bound, threshold, side))
    return checks


def _figures(audit: "Audit") -> Iterator[tuple[str, _Figure]]:
    """Yield what a check may name; of two with one name the later counts."""
    for group in group_names(audit.intervals):
        for metric, row in select(audit.intervals, group=group).iterrows():
            yield f"{metric}[{group}]", _of_interval(row)
    for name, row in select(audit.intervals, group=OVERALL).iterrows():
        yield str(name), _of_interval(row)
    for name, row in audit.worst.iterrows():
        end = "low" if str(name).endswith("accuracy") else "high"
        yield str(name), _Figure(row["value"], **{end: row["bound"]})
    for name, row in audit.gaps.iterrows():
        yield str(name), _Figure(row["value"])


def _of_interval(row: "pd.Series[Any]") -> _Figure:
    return _Figure(row["value"], row["low"], row["high"], has_bounds=row["method"] != "none")


def _bound(name: str, figure: _Figure, side: Side) -> float:
    bound = figure.low if side == "under" else figure.high
    has_one = figure.has_bounds or not math.isnan(bound)
    if not has_one and not math.isnan(figure.value):
        end = "lower" if side == "under" else "upper"
        raise ValueError(f"`{name}` has no {end} bound. Check it without bounds.")
    return bound


def _listed(audit: "Audit") -> str:
    names = [*audit.overall.index, *audit.worst.index, *audit.gaps.index]
    groups = group_names(audit.intervals)
    return f"{', '.join(names)}; and those of a group, as {audit.overall.index[0]}[{groups[0]}]"
