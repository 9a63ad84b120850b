"""Hide groups with small cells, and further ones from which they could be worked out."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._frames import group_names

if TYPE_CHECKING:
    from ._audit import Audit
    from ._tradeoff import Tradeoff

_UNKNOWN = "rows without a group"


def suppress(audit: "Audit", below: int) -> "Audit":
    """Return the audit with everything about hidden groups replaced by NaN."""
    hidden = hidden_names(audit, below)
    if not hidden:
        return audit
    groups = hidden - {_UNKNOWN}
    rows = _rows(audit, groups)
    reference = audit.settings["reference"]
    disparities = hidden | set(group_names(audit.intervals)) if reference in hidden else hidden
    return replace(
        audit,
        by_group=_blank(audit.by_group.astype({"n": "Int64"}), rows),
        cells=_blank(audit.cells.astype("Int64"), rows),
        intervals=_blank_groups(audit.intervals, hidden, keep=["method"]),
        disparities=_blank_groups(audit.disparities, disparities),
        gaps=_blank(audit.gaps, audit.gaps[["lowest", "highest"]].isin(groups).any(axis=1)),
        worst=_blank(
            # The bounds rest on all groups, on the small ones most.
            audit.worst.astype({"n": "Int64"}).assign(lower_bound=np.nan),
            audit.worst["name"].map(lambda name: _mentions(name, groups)),
        ),
        warnings=_warnings(audit.warnings, hidden, below),
        settings=audit.settings
        | {"suppress_below": below}
        | ({"n_unknown": None} if _UNKNOWN in hidden else {})
        | ({"reference": None} if reference in hidden else {}),
    )


def suppress_tradeoff(found: "Tradeoff", below: int) -> "Tradeoff":
    """Return the comparison with everything about hidden groups replaced by NaN."""
    audits = {arm: suppress(audit, below) for arm, audit in found.audits.items()}
    hidden = hidden_names(next(iter(found.audits.values())), below)
    if not hidden:
        return found
    table = found.table.astype({"worst_cell_n": "Int64"})
    for arm, audit in audits.items():
        for kind in ("worst_group", "worst_cell"):
            if np.isnan(audit.worst["value"][f"{kind}_accuracy"]):
                columns = [name for name in table.columns if name.startswith(kind)]
                table.loc[arm, columns] = None
        for gap in audit.gaps.index.intersection(table.columns):
            table.loc[arm, gap] = audit.gaps.loc[gap, "value"]
    return replace(
        found,
        table=table,
        changes=_blank_groups(found.changes, hidden),
        audits=audits,
        warnings=_warnings(found.warnings, hidden, below),
        settings=found.settings | audits[found.settings["baseline"]].settings,
    )


def hidden_names(audit: "Audit", below: int) -> set[str]:
    """Return the groups to hide: at least two, and together no small cell either."""
    if below < 0:
        raise ValueError(f"`suppress_below` must be 0 or more, got {below}.")
    present = audit.cells[audit.by_group["n"] > 0].to_numpy()
    n = audit.settings["n_rows"]
    favourable = round(audit.overall["base_rate"] * n)
    unknown = np.array([n - favourable, favourable]) - present.sum(0)
    cells = np.vstack([present, unknown])  # (K + 1, 2): the totals are public, so these are parts
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
