"""Arms as points: one figure against another."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._canvas import COLOURS, MARKERS, add_legend, finish, label, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def _error(frame: pd.DataFrame, name: str) -> "NDArray[np.float64] | None":
    """Return the lengths below and above the mean, (2, rows), where the frame has intervals."""
    if f"{name}_low" not in frame:
        return None
    mean = frame[f"{name}_mean"]
    return np.stack([mean - frame[f"{name}_low"], frame[f"{name}_high"] - mean])
