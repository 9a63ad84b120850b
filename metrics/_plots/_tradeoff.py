"""Arms as points: one figure against another."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .._pareto import pareto_front
from ._canvas import COLOURS, MARKERS, add_legend, canvas, finish, ink
from ._choice import numbers
from ._words import axis_label, direction, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_tradeoff(
    frame: pd.DataFrame,
    x: str,
    y: str,
    ax: "Axes | None" = None,
    *,
    runs: pd.DataFrame | None = None,
) -> "Axes":
    """Draw one point an arm, with intervals where the frame has them, and the Pareto front.

    A line joins the arms in the front: no other arm is at least as good in both figures and better
    in one, as `pareto_front` has it. It is the front of the two figures drawn; where the better
    direction of one is not known, it is the arms that a column ``pareto`` marks.

    Args:
        frame: One row an arm, named by the index or a column ``arm``: `Tradeoff.table`, or the
            result of `over_seeds`, whose ``x_mean, x_low, x_high`` are found by the name ``x``.
        x: Figure to the right, for instance "accuracy".
        y: Figure upwards, for instance "worst_cell_accuracy".
        ax: Where to draw; None makes a figure.
        runs: Single runs to draw as small pale points: columns ``arm, seed`` and both figures, as
            `over_seeds` takes them.

    Returns:
        The axes.

    Raises:
        KeyError: If a frame lacks a figure.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_tradeoff
        >>> arms = pd.DataFrame({"accuracy": [0.9], "tpr": [0.6]}, index=["unclipped"])
        >>> plot_tradeoff(arms, "accuracy", "tpr").get_ylabel()
        'TPR (higher is better)'
    """
    frame = frame.set_index("arm") if "arm" in frame.columns else frame
    centre = pd.DataFrame({name: numbers(frame[_mean(frame, name)]) for name in (x, y)})
    undefined = centre.isna().any(axis=1)
    names = [label(arm) + " (n/a)" * gone for arm, gone in zip(frame.index, undefined, strict=True)]
    has_intervals = any(f"{name}_low" in frame for name in (x, y))
    note = "Lines: intervals.\n" * has_intervals + "Small, pale: seeds." * (runs is not None)
    with canvas(ax, 2.9, names=["Pareto front", *names], note=note) as ax:
        _draw_front(ax, x, y, centre, frame)
        for i, arm in enumerate(frame.index):
            look: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                "linestyle": "none",
            }
            if runs is not None:
                own = runs[runs["arm"] == arm]
                ax.plot(
                    numbers(own[x]), numbers(own[y]), **look, markersize=3.5, alpha=0.4, zorder=1
                )
            ax.errorbar(
                centre[x][[i]],
                centre[y][[i]],
                xerr=_error(frame.iloc[[i]], x),
                yerr=_error(frame.iloc[[i]], y),
                label=names[i],
                markersize=7,
                elinewidth=0.6,
                **look,
            )
        ax.set(xlabel=axis_label(x), ylabel=axis_label(y))
        add_legend(ax)
        return finish(ax, note)


def _mean(frame: pd.DataFrame, name: str) -> str:
    return f"{name}_mean" if f"{name}_mean" in frame else name


def _error(frame: pd.DataFrame, name: str) -> "NDArray[np.float64] | None":
    """Return the lengths below and above the mean, (2, rows), where the frame has intervals."""
    if f"{name}_low" not in frame:
        return None
    mean = numbers(frame[f"{name}_mean"])
    low, high = numbers(frame[f"{name}_low"]), numbers(frame[f"{name}_high"])
    return np.maximum([mean - low, high - mean], 0)  # rounding can leave less


def _draw_front(ax: "Axes", x: str, y: str, centre: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Join the arms that no other arm beats."""
    better = [direction(name) for name in (x, y)]
    if all(better):
        front = pareto_front(centre * better, [x, y]).to_numpy()
    elif "pareto" in frame:
        front = frame["pareto"].to_numpy(bool, na_value=False)
    else:
        return
    line = centre[front].sort_values([x, y])
    if len(line) > 1:
        ax.plot(
            line[x],
            line[y],
            color=ink(ax),
            alpha=0.6,
            linewidth=1,
            zorder=1.5,
            label="Pareto front",
        )
