"""Hide groups with small cells, and further ones from which they could be worked out."""

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
    if "suppress_below" in audit.settings:
        raise ValueError("Small cells are hidden already: suppress the audit that they are in.")
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
        # A minimum, a maximum and a p are of all groups, even where a shown group has it.
        gaps=_blank(audit.gaps, np.ones(len(audit.gaps), dtype=bool)),
        worst=_blank(audit.worst.astype({"n": "Int64"}), np.ones(len(audit.worst), dtype=bool)),
        matched=None if audit.matched is None else _blank_groups(audit.matched, hidden),
        warnings=_warnings(audit.warnings, group_names(audit.intervals), hidden, below),
        settings=audit.settings
        | {"data_sha256": None}  # few counts can be tried out until it fits
        | ({"n_unknown": None} if _UNKNOWN in hidden else {})
        | ({"reference": None} if reference in hidden else {}),
    )


def suppress_tradeoff(found: "Tradeoff", below: int) -> "Tradeoff":
    """Return the comparison with everything about hidden groups replaced by NaN."""
    audits = {arm: suppress(audit, below) for arm, audit in found.audits.items()}
    settings = found.settings | audits[found.settings["baseline"]].settings
    one = next(iter(found.audits.values()))
    hidden = hidden_names(one, below)
    if not hidden:
        return replace(found, audits=audits, settings=settings)
    return replace(
        found,
        table=_blank_extremes(found.table),
        matched=None if found.matched is None else _blank_extremes(found.matched),
        changes=_blank_groups(found.changes, hidden),
        audits=audits,
        warnings=_warnings(found.warnings, group_names(one.intervals), hidden, below),
        settings=settings,
    )


def _blank_extremes(table: pd.DataFrame) -> pd.DataFrame:
    """Blank what a hidden group may be behind, and leave out the front that is made of it."""
    names = [str(name) for name in table]
    columns = [name for name in names if name.startswith("worst_") or name.endswith("_difference")]
    blank = table.drop(columns="pareto", errors="ignore").assign(**dict.fromkeys(columns, np.nan))
    return blank.astype({name: "Int64" for name in columns if name.endswith("_n")})


def hidden_names(audit: "Audit", below: int) -> set[str]:
    """Return the groups to hide."""
    if below < 0:
        raise ValueError(f"`suppress_below` must be 0 or more, got {below}.")
    hidden = hidden_parts(_cells(audit), below)
    names = [*group_names(audit.intervals), _UNKNOWN]
    return {name for name, is_hidden in zip(names, hidden, strict=True) if is_hidden}


def hidden_parts(cells: NDArray[np.int64], below: int) -> NDArray[np.bool_]:
    """Return which parts of the rows to hide, from their rows of each label, (parts, C).

    Those with a small cell, and the smallest others until the rest of the totals, which is what all
    hidden parts have together, is of `below` rows at least of each label and leaves open who has
    how many.
    """
    hidden = np.asarray(_is_small(cells, below).any(axis=1))
    by_size = np.argsort(cells.sum(1), kind="stable")
    occurs = cells.sum(0) > 0
    for part in by_size[cells.sum(1)[by_size] > 0]:
        rest = cells[hidden].sum(0)[occurs]
        if not hidden.any() or (_is_open(cells[hidden]) and (rest >= below).all()):
            return hidden
        hidden[part] = True
    if hidden.any() and not _is_open(cells[hidden]):
        raise ValueError(
            "`suppress_below` can hide nothing here: the totals alone give each group's rows away."
        )
    return hidden


def _is_open(cells: NDArray[np.int64]) -> bool:
    """Tell whether the hidden parts, of one row at least each, could have other cells."""
    return len(cells) > 1 and cells.sum() > len(cells)


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


def _warnings(messages: list[str], names: list[str], hidden: set[str], below: int) -> list[str]:
    # A flag that names shown groups only says of the others that they are not concerned.
    shown = [m for m in messages if not any(name in m for name in names)]
    if _UNKNOWN in hidden:
        shown = [m for m in shown if "lack a sensitive feature" not in m]
    return [
        f"{len(hidden)} groups are hidden: those with a (group, label) cell of fewer than {below} "
        "rows, and as many others as it takes to keep them from being worked out. Gaps and worst "
        "groups are left out, being of all groups.",
        *shown,
    ]
