"""Pictures as SVG, drawn without pyplot and with colours that colour-blind readers can tell apart.

Every plot draws into `ax`, or into a new figure, and returns the axes.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._canvas import COLOURS, MARKERS, add_legend, finish, label, new_axes
from ._frames import select

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 300


def plot_tradeoff(frame: pd.DataFrame, x: str, y: str, ax: "Axes | None" = None) -> "Axes":
    """Draw one point an arm, with intervals where the frame has them.

    Args:
        frame: One row an arm, named by the index or a column ``arm``: `Tradeoff.table`, or the
            result of `over_seeds`, whose ``x_mean, x_low, x_high`` are found by the name ``x``.
        x: Figure to the right, for instance "accuracy".
        y: Figure upwards, for instance "worst_cell_accuracy".
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        KeyError: If the frame lacks a figure.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_tradeoff
        >>> arms = pd.DataFrame({"accuracy": [0.9], "tpr": [0.6]}, index=["unclipped"])
        >>> plot_tradeoff(arms, "accuracy", "tpr").get_xlabel()
        'accuracy'
    """
    ax = new_axes(7, 4.6) if ax is None else ax
    if "arm" in frame.columns:
        frame = frame.set_index("arm")
    centre = {name: frame[f"{name}_mean" if f"{name}_mean" in frame else name] for name in (x, y)}
    for i, arm in enumerate(frame.index):
        ax.errorbar(
            centre[x].iloc[[i]],
            centre[y].iloc[[i]],
            xerr=_error(frame.iloc[[i]], x),
            yerr=_error(frame.iloc[[i]], y),
            label=label(arm),
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            markersize=7,
            elinewidth=0.8,
            linestyle="none",
        )
    ax.set(xlabel=x, ylabel=y)
    add_legend(ax)
    return finish(ax)


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


def plot_telemetry(
    trace_frame: pd.DataFrame, ax: "Axes | None" = None, *, quantity: str = "factor"
) -> "Axes":
    """Draw one quantity of a training trace, a line a group; long traces as means of steps.

    Args:
        trace_frame: `Trace.to_frame()`: columns ``step`` and ``factor[<group>]``, ...
        ax: Where to draw; None makes a figure.
        quantity: Which columns: "factor", "cap_norm", "norm" or "share".

    Returns:
        The axes.

    Raises:
        KeyError: If the frame has no such columns.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_telemetry
        >>> trace = pd.DataFrame({"step": [0, 1], "factor[a]": [1.0, 0.5]})
        >>> plot_telemetry(trace).get_ylabel()
        'factor'
    """
    columns = [name for name in trace_frame.columns if name.startswith(f"{quantity}[")]
    if not columns:
        raise KeyError(f"{quantity}[...]")
    ax = new_axes(7, 3.6) if ax is None else ax
    width = max(1, -(-len(trace_frame) // _MAX_POINTS))
    blocks = trace_frame.groupby(np.arange(len(trace_frame)) // width)
    for i, name in enumerate(columns):
        ax.plot(
            blocks["step"].mean(),
            blocks[name].mean(),
            label=label(name[len(quantity) + 1 : -1]),
            color=COLOURS[i % len(COLOURS)],
            linestyle=("-", "--", ":")[i // len(COLOURS) % 3],
            linewidth=1.2,
        )
    ax.set(xlabel="step", ylabel=quantity)
    add_legend(ax)
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


def _error(frame: pd.DataFrame, name: str) -> "NDArray[np.float64] | None":
    """Return the lengths below and above the mean, (2, rows), where the frame has intervals."""
    if f"{name}_low" not in frame:
        return None
    mean = frame[f"{name}_mean"]
    return np.stack([mean - frame[f"{name}_low"], frame[f"{name}_high"] - mean])
