"""Hide groups with small cells, and further ones from which they could be worked out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._frames import OVERALL, group_names, select

if TYPE_CHECKING:
    from ._audit import Audit
    from ._tradeoff import Tradeoff

_UNKNOWN = "rows without a group"


def suppress(audit: "Audit", below: int) -> "Audit":
    """Return the audit with everything about hidden groups replaced by NaN.

    Curves are left out whoever is hidden: from one cut of the score to the next there are few rows.
    """
    hidden = hidden_names(audit, below)
    audit = replace(
        audit, calibration=None, sweep=None, settings=audit.settings | {"suppress_below": below}
    )
    if not hidden:
        return audit
    groups = hidden - {_UNKNOWN}
    rows = _rows(audit, groups)
    reference = audit.settings["reference"]
    disparities = hidden | set(group_names(audit.intervals)) if reference in hidden else hidden
    return replace(
        audit,
        by_group=_blank(audit.by_group.astype({"n": "Int64"}), rows),
        cells=None if audit.cells is None else _blank(audit.cells.astype("Int64"), rows),
        intervals=_blank_groups(audit.intervals.astype({"n": "Int64"}), hidden, keep=["method"]),
        disparities=_blank_groups(audit.disparities, disparities),
        gaps=_blank(audit.gaps, audit.gaps[["lowest", "highest"]].isin(groups).any(axis=1)),
        worst=_blank(
            # The bounds rest on all groups, on the small ones most.
            audit.worst.astype({"n": "Int64"}).assign(bound=np.nan),
            audit.worst["name"].map(lambda name: _mentions(name, groups)),
        ),
        matched=None if audit.matched is None else _blank_groups(audit.matched, hidden),
        warnings=_warnings(audit.warnings, hidden, below),
        settings=audit.settings
        | ({"n_unknown": None} if _UNKNOWN in hidden else {})
        | ({"reference": None} if reference in hidden else {}),
    )


def suppress_tradeoff(found: "Tradeoff", below: int) -> "Tradeoff":
    """Return the comparison with everything about hidden groups replaced by NaN."""
    audits = {arm: suppress(audit, below) for arm, audit in found.audits.items()}
    settings = found.settings | audits[found.settings["baseline"]].settings
    hidden = hidden_names(next(iter(found.audits.values())), below)
    if not hidden:
        return replace(found, audits=audits, settings=settings)
    return replace(
        found,
        table=_blank_extremes(found.table, audits),
        matched=None if found.matched is None else _blank_extremes(found.matched, {}),
        changes=_blank_groups(found.changes, hidden),
        audits=audits,
        warnings=_warnings(found.warnings, hidden, below),
        settings=settings,
    )


def _blank_extremes(table: pd.DataFrame, audits: Mapping[str, "Audit"]) -> pd.DataFrame:
    """Blank what a hidden group may be behind, unless an arm's audit shows that none is."""
    table = table.astype({name: "Int64" for name in table.columns if name.endswith("_n")})
    for arm in table.index:
        shown = set()
        if arm in audits:
            worst, gaps = audits[arm].worst["value"], audits[arm].gaps["value"]
            shown = {*worst.dropna().index, *gaps.dropna().index}
        for column in table.columns:
            figure = column if column.endswith("_difference") else _figure_of(column)
            if figure is not None and not any(name.startswith(figure) for name in shown):
                table.loc[arm, column] = None
    return table


def _figure_of(column: str) -> str | None:
    """Return what `worst` calls the figure that a column of a comparison is about, or its start."""
    return next((kind for kind in ("worst_group", "worst_cell") if column.startswith(kind)), None)


def hidden_names(audit: "Audit", below: int) -> set[str]:
    """Return the groups to hide: at least two, and together no small cell either."""
    if below < 0:
        raise ValueError(f"`suppress_below` must be 0 or more, got {below}.")
    cells = _cells(audit)  # (K + 1, C)
    hidden = np.asarray(_is_small(cells, below).any(axis=1))
    by_size = np.argsort(cells.sum(1), kind="stable")
    for part in by_size[cells.sum(1)[by_size] > 0]:
        if not hidden.any() or (
            hidden.sum() > 1 and not _is_small(cells[hidden].sum(0), below).any()
        ):
            break
        hidden[part] = True
    names = [*group_names(audit.intervals), _UNKNOWN]
    return {name for name, is_hidden in zip(names, hidden, strict=True) if is_hidden}


def _cells(audit: "Audit") -> NDArray[np.int64]:
    """Return the rows of each label in each group, and without a group: parts of public totals."""
    present = audit.by_group["n"] > 0
    n = select(audit.intervals, group=OVERALL)["n"]
    if audit.cells is None:
        parts, totals = audit.by_group.loc[present, ["n"]].to_numpy(), n[["mae"]]
    elif audit.settings["task"] == "binary":
        parts, totals = audit.cells[present].to_numpy(), n[["fpr", "tpr"]]
    else:
        labels = [f"tpr[{value}]" for value in audit.settings["labels"]]
        parts, totals = audit.cells[present].to_numpy(), n[labels]
    return np.vstack([parts, totals.to_numpy() - parts.sum(0)])


def _is_small(cells: NDArray[np.int64], below: int) -> NDArray[np.bool_]:
    return (cells > 0) & (cells < below)


def _rows(audit: "Audit", hidden: set[str]) -> NDArray[np.bool_]:
    present = (audit.by_group["n"] > 0).to_numpy()
    rows = np.zeros(len(present), dtype=bool)
    rows[present] = [name in hidden for name in group_names(audit.intervals)]
    return rows


def _blank(frame: pd.DataFrame, rows: Any) -> pd.DataFrame:
    return frame.mask(np.repeat(np.asarray(rows)[:, None], frame.shape[1], axis=1))


def _blank_groups(
    frame: pd.DataFrame, hidden: set[str], keep: list[str] | None = None
) -> pd.DataFrame:
    hidden_rows = frame.index.get_level_values("group").isin(hidden)
    return _blank(frame, hidden_rows).assign(**{name: frame[name] for name in keep or []})


def _mentions(text: Any, hidden: set[str]) -> bool:
    return any(name in str(text) for name in hidden)


def _warnings(messages: list[str], hidden: set[str], below: int) -> list[str]:
    shown = [m for m in messages if not _mentions(m, hidden - {_UNKNOWN})]
    if _UNKNOWN in hidden:
        shown = [m for m in shown if "lack a sensitive feature" not in m]
    return [
        f"{len(hidden)} groups are hidden: those with a (group, label) cell of fewer than {below} "
        "rows, and as many others as it takes to keep them from being worked out.",
        *shown,
    ]
