"""Estimates with their intervals, one line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._frames import OVERALL, select
from ._canvas import COLOURS, LINE, canvas, finish, ink
from ._choice import left_out, notable, numbers
from ._words import axis_label, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_by_group(frame: pd.DataFrame, metric: str, ax: "Axes | None" = None) -> "Axes":
    """Draw one figure of every group with its interval, and the overall value as a line.

    Of more than 40 groups those with the lowest and the highest values and those with the most rows
    are drawn; the title says how many are left out. An undefined value leaves its line empty.

    Args:
        frame: `Audit.intervals`: columns ``value, low, high`` in the figure's units, and ``n``
            (rows), without which the largest groups are not known.
        metric: Which figure, for instance "accuracy".
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        KeyError: If the frame lacks the figure.

    Example:
        >>> from fairclip.metrics import audit, plot_by_group
        >>> found = audit([0, 1, 0, 1], [0, 1, 0, 0], sensitive_features=["a", "a", "b", "b"])
        >>> plot_by_group(found.intervals, "accuracy").get_xlabel()
        'accuracy (higher is better)'
    """
    overall = numbers(frame["value"].loc[[(OVERALL, metric)]])[0]
    return _forest(
        select(frame, metric=metric).drop(index=OVERALL),
        "value",
        ax,
        note="Lines: intervals. Dashed: all rows.",
        lines=[(overall, "--"), *([(0, "-")] if metric == "bias" else [])],
        x_label=axis_label(metric),
    )


def plot_changes(
    frame: pd.DataFrame, ax: "Axes | None" = None, *, metric: str | None = None
) -> "Axes":
    """Draw changes with their intervals, one line each, around 0; that of all rows as a diamond.

    Of more than 40 lines the lowest and the highest changes are drawn, and those with the most rows
    where the frame has ``n``; the title says how many are left out.

    Args:
        frame: Columns ``change, low, high`` in the figure's units; the index names the lines. Rows
            of `Tradeoff.changes`.
        ax: Where to draw; None makes a figure.
        metric: Which figure has changed: it names the axis, with the direction that is better.

    Returns:
        The axes.

    Raises:
        KeyError: If a column is missing.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_changes
        >>> changes = pd.DataFrame({"change": [0.1], "low": [0.0], "high": [0.2]}, index=["a"])
        >>> plot_changes(changes, metric="fpr").get_xlabel()
        'change of FPR (lower is better)'
    """
    x_label = "change" if metric is None else f"change of {axis_label(metric)}"
    return _forest(frame, "change", ax, note="Lines: intervals.", lines=[(0, "-")], x_label=x_label)


def _forest(
    frame: pd.DataFrame,
    value: str,
    ax: "Axes | None",
    *,
    note: str,
    lines: Sequence[tuple[float, str]],
    x_label: str,
) -> "Axes":
    """Draw value, low and high of each row on its own line, the first on top."""
    sizes = numbers(frame["n"]) if "n" in frame else None
    rows = frame.iloc[notable(numbers(frame[value]), sizes)]
    names = [", ".join(map(str, np.atleast_1d(name))) for name in rows.index.to_numpy()]
    spelt = [wrapped(name) for name in names]
    pitch = 0.1 + LINE * max((1 + name.count("\n") for name in spelt), default=1)  # inches
    left = left_out(len(rows), len(frame), has_sizes=sizes is not None)
    note = "\n".join(filter(None, [note, left]))
    with canvas(ax, pitch * len(rows), note=note) as ax:
        for place, style in lines:
            ax.axvline(place, color=ink(ax), linestyle=style, linewidth=1, zorder=1)
        points = zip(*(numbers(rows[column]) for column in (value, "low", "high")), strict=True)
        for i, (name, (middle, low, high)) in enumerate(zip(names, points, strict=True)):
            is_all = name == OVERALL
            colour = ink(ax) if is_all else COLOURS[0]
            ax.plot([low, high], [i, i], "-", color=colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot([middle], [i], "D" if is_all else "o", color=colour, markersize=5)
        ax.set_yticks(range(len(rows)), spelt)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(x_label)
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        return finish(ax, note)
