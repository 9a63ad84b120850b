"""Figures of the groups against values that public texts name, read from a dated file."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._intervals import Interval, ratio
from ._sentences import groups_with

if TYPE_CHECKING:
    from .._audit import Audit

BELOW, NOT_BELOW, INSUFFICIENT = "below threshold", "not below", "insufficient data"

_DEFAULT = Path(__file__).parent / "thresholds.toml"
_COMPARISONS = ("ratio_to_highest", "value")


@dataclass(frozen=True, slots=True)
class Threshold:
    """One entry of the file, which says what the fields mean.

    Raises:
        ValueError: If a field is of another kind or out of range.
    """

    name: str
    source: str
    url: str
    text_date: date
    checked: date
    figure: str
    comparison: str
    value: float | None = None
    min_share: float = 0.0
    min_rows: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "source", "url", "figure"):
            self._check(field, str, "a text", lambda text: bool(text.strip()))
        self._check("note", str, "a text")
        for field in ("text_date", "checked"):
            self._check(field, date, "a date, as 2023-04-06")
        self._check("comparison", str, f"one of {_COMPARISONS}", lambda word: word in _COMPARISONS)
        if self.value is not None:
            self._check("value", float | int, "a number", isfinite)
        self._check("min_share", float | int, "a share in [0, 1]", lambda share: 0 <= share <= 1)
        self._check("min_rows", int, "a count", lambda count: count >= 0)

    def _check(
        self, field: str, kind: Any, words: str, holds: Callable[[Any], bool] = lambda _: True
    ) -> None:
        value = getattr(self, field)
        if not isinstance(value, kind) or isinstance(value, bool) or not holds(value):
            raise ValueError(f"`{field}` must be {words}, got {value!r}")


def read_thresholds(path: str | Path | None = None) -> tuple[Threshold, ...]:
    """Read a file of thresholds; None is the one that comes with fairclip.

    Args:
        path: A TOML file as ``metrics/_report/thresholds.toml``, which explains its fields.

    Returns:
        The entries, in the file's order.

    Raises:
        ValueError: If the file is missing or not TOML, or an entry lacks a field, has one of
            another name or kind, or shares its name with another.

    Example:
        >>> from fairclip.metrics import read_thresholds
        >>> [threshold.name for threshold in read_thresholds()]
        ['Four-fifths rule', 'NYC Local Law 144']
    """
    path = Path(_DEFAULT if path is None else path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"`thresholds` must be a file, cannot read {path}: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"`thresholds`: {path} is not TOML: {error}.") from error
    entries = content.get("threshold")
    if set(content) != {"threshold"} or not isinstance(entries, list) or not entries:
        raise ValueError(f"`thresholds`: {path} must hold [[threshold]] entries and nothing else.")
    found = tuple(_entry(path, i, entry) for i, entry in enumerate(entries, start=1))
    if len({entry.name for entry in found}) < len(found):
        raise ValueError(f"`thresholds`: {path} has two entries of one name. Rename one.")
    return found


def compare(audit: "Audit", thresholds: Sequence[Threshold]) -> pd.DataFrame:
    """Return the groups against each threshold whose figure the audit has.

    The word rests on the interval: "below threshold" where all of it is below the value, "not
    below" where none of it is, "insufficient data" otherwise and for groups that are too small.
    The group with the highest figure is taken among those that are large enough, and as given: that
    it is the highest by chance is not in the interval.

    Args:
        audit: The figures.
        thresholds: From `read_thresholds`.

    Returns:
        Indexed by ``name`` (of the threshold) and ``group``; columns ``n``, ``share`` (of the
        rows in groups), ``figure``, ``compared`` (the ratio or value that is compared), ``low``,
        ``high``, ``threshold`` and ``word`` (None without a threshold).
    """
    known = audit.intervals.index.get_level_values("metric")
    frames = {t.name: _compare(audit, t) for t in thresholds if t.figure in known}
    return pd.concat(frames, names=["name"]) if frames else pd.DataFrame()


def _compare(audit: "Audit", threshold: Threshold) -> pd.DataFrame:
    rows = groups_with(audit.intervals, threshold.figure)
    sizes = audit.intervals["n"].groupby(level="group").max()  # some figures look at fewer rows
    frame = pd.DataFrame({"n": sizes[rows.index].astype(np.int64)})
    frame["share"] = frame["n"] / _rows_in_groups(audit)
    frame["figure"] = rows["value"]
    enough = (frame["n"] >= threshold.min_rows) & (frame["share"] >= threshold.min_share)
    compared = rows if threshold.comparison == "value" else _over_highest(rows, enough)
    frame[["compared", "low", "high"]] = compared[["value", "low", "high"]].where(enough, axis=0)
    frame["threshold"] = np.nan if threshold.value is None else threshold.value
    frame["word"] = None if threshold.value is None else _words(frame)
    return frame


def _rows_in_groups(audit: "Audit") -> int:
    """Return the rows that belong to a group; all rows where it is hidden how many do."""
    return int(audit.settings["n_rows"] - (audit.settings["n_unknown"] or 0))


def _over_highest(rows: pd.DataFrame, enough: "pd.Series[bool]") -> pd.DataFrame:
    """Return each figure over the highest one of the groups that are large enough."""
    values = rows["value"][enough].dropna()
    if values.empty or values.max() <= 0:
        return rows.assign(value=np.nan, low=np.nan, high=np.nan)
    highest = values.idxmax()
    groups, top = (
        Interval(*(each[part].to_numpy(np.float64) for part in Interval._fields))
        for each in (rows, rows.loc[[highest]])
    )
    found = pd.DataFrame(ratio(groups, top)._asdict(), index=rows.index)
    found.loc[highest] = 1.0  # over itself
    return found


def _words(frame: pd.DataFrame) -> "np.ndarray[Any, Any]":
    low, high, value = (frame[name].to_numpy() for name in ("low", "high", "threshold"))
    return np.select([high < value, low >= value], [BELOW, NOT_BELOW], INSUFFICIENT)


def _entry(path: Path, which: int, entry: Mapping[str, Any]) -> Threshold:
    where = f"`thresholds`: entry {which} of {path}"
    if unknown := set(entry) - {field.name for field in fields(Threshold)}:
        raise ValueError(f"{where} has unknown fields {sorted(unknown)}.")
    if missing := {f.name for f in fields(Threshold) if f.default is MISSING} - set(entry):
        raise ValueError(f"{where} lacks the fields {sorted(missing)}.")
    try:
        return Threshold(**entry)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
