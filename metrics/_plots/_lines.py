"""Estimates with their intervals, one line each."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._frames import select
from ._canvas import COLOURS, finish, label, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_by_group(frame: pd.DataFrame, metric: str, ax: "Axes | None" = None) -> "Axes":
    """Draw one figure of every group with its interval, and the overall value as a line.

    Args:
        frame: `Audit.intervals`.
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
        'accuracy'
    """
    overall = frame["value"][("overall", metric)]
    ax = _forest(select(frame, metric=metric).drop(index="overall"), "value", ax)
    ax.axvline(overall, color="#57606a", linestyle="--", linewidth=1)
    ax.set_xlabel(metric)
    ax.set_title("dashed: all rows", fontsize=9, loc="left", color="#57606a")
    return finish(ax)


def plot_changes(frame: pd.DataFrame, ax: "Axes | None" = None) -> "Axes":
    """Draw changes with their intervals, one line each, around 0.

    Args:
        frame: Columns ``change, low, high``; the index names the lines. Rows of `Tradeoff.changes`.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        KeyError: If a column is missing.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_changes
        >>> changes = pd.DataFrame({"change": [0.1], "low": [0.0], "high": [0.2]}, index=["a"])
        >>> plot_changes(changes).get_xlabel()
        'change'
    """
    ax = _forest(frame, "change", ax)
    ax.axvline(0, color="#57606a", linewidth=1)
    ax.set_xlabel("change")
    return finish(ax)


def _forest(frame: pd.DataFrame, value: str, ax: "Axes | None") -> "Axes":
    """Draw value, low and high of each row on its own line, the first on top."""
    ax = new_axes(7, 1.2 + 0.3 * len(frame)) if ax is None else ax
    lines = np.arange(len(frame))[::-1]
    ax.hlines(lines, frame["low"], frame["high"], color=COLOURS[0], linewidth=1.5)
    ax.plot(frame[value], lines, "o", color=COLOURS[0], markersize=5)
    names = [label(", ".join(map(str, np.atleast_1d(name)))) for name in frame.index.to_numpy()]
    ax.set_yticks(lines, names)
    ax.set_ylim(-0.7, len(frame) - 0.3)
    return ax
