"""Families of arms as steps: which figure can be had within which loss of another."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._pareto import pareto_front
from ._canvas import COLOURS, DASHES, MARKERS, add_legend, canvas, finish, ink
from ._choice import numbers
from ._words import axis_label, direction, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#808080"
_MARGIN = 0.02  # of the width, right of the best point


def plot_fronts(
    fronts: pd.DataFrame,
    x: str,
    y: str,
    ax: "Axes | None" = None,
    *,
    main: Collection[str] = (),
    coloured: Collection[str] | None = None,
    arms: pd.DataFrame | None = None,
    baseline: "pd.Series[float] | None" = None,
    x_from: float | None = None,
) -> "Axes":
    """Draw for each family the best ``y`` of its points with at least that much ``x``, in steps.

    Points of a family that another of it beats are not drawn. Of ``x`` more is better; of ``y`` as
    its axis says.

    Args:
        fronts: Columns ``family`` and both figures, one row a point.
        x: Figure to the right, for instance "accuracy".
        y: Figure upwards, for instance "worst_cell_accuracy".
        ax: Where to draw; None makes a figure.
        main: Families drawn thick and filled; the others are thin and hollow.
        coloured: Families with a colour and marker of their own, beside ``main``; the rest is grey.
            None: all.
        arms: Single arms to draw as small grey points: both figures.
        baseline: Both figures of the arm that all is compared with, by column; its name is that of
            the mark.
        x_from: Where the picture starts; it ends at the best point of all, single arms too. None:
            where the points do.

    Returns:
        The axes.

    Raises:
        KeyError: If a column is missing.
        ValueError: If ``x_from`` is given and there is no point to end at.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_fronts
        >>> points = pd.DataFrame(
        ...     {"family": ["caps", "caps"], "accuracy": [0.9, 0.8], "tpr": [0.5, 0.6]}
        ... )
        >>> plot_fronts(points, "accuracy", "tpr").lines[0].get_xdata().tolist()
        [0.8, 0.9]
    """
    families = {str(name): rows for name, rows in fronts.groupby("family", sort=False)}
    own = [f for f in families if coloured is None or f in coloured or f in main]
    grey = [f for f in families if f not in own]
    starred = [] if baseline is None else [baseline]
    names = [*own, *(["others"] if grey else []), *(str(point.name) for point in starred)]
    singles = fronts.iloc[:0] if arms is None else arms
    reached = pd.Series([*fronts[x], *singles[x], *(point[x] for point in starred)], dtype=float)
    best = reached.max()  # NaN without any
    if x_from is not None and np.isnan(best):
        raise ValueError(f"`fronts`, `arms` and `baseline` have no point with {x}: leave `x_from`.")
    note = "Small, grey: single arms." if arms is not None else ""
    with canvas(ax, 3.2, names=names, note=note) as ax:
        if arms is not None:
            ax.plot(numbers(arms[x]), numbers(arms[y]), "o", color=_GREY, markersize=3, alpha=0.4)
        for name in grey:
            _steps(ax, families[name], x, y, x_from, color=_GREY, linewidth=0.8, alpha=0.6)
        for i, name in enumerate(own):
            colour, is_main = COLOURS[i % len(COLOURS)], name in main
            _steps(
                ax,
                families[name],
                x,
                y,
                x_from,
                color=colour,
                marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                linestyle=DASHES[i % len(DASHES)],
                linewidth=2.2 if is_main else 1.1,
                markersize=7 if is_main else 5,
                markerfacecolor=colour if is_main else "none",
                label=label(name),
                zorder=3 if is_main else 2,
            )
        if grey:
            ax.plot([], [], color=_GREY, linewidth=0.8, label="others")
        for point in starred:
            name = label(point.name)
            ax.plot([point[x]], [point[y]], "*", color=ink(ax), markersize=12, label=name, zorder=4)
        if x_from is not None:
            ax.set_xlim(x_from, best + _MARGIN * (best - x_from))
        ax.set(xlabel=axis_label(x), ylabel=axis_label(y))
        add_legend(ax)
        return finish(ax, note)


def _steps(
    ax: "Axes", rows: pd.DataFrame, x: str, y: str, x_from: float | None, **look: Any
) -> None:
    """Draw what a family's points reach; the first one's figure is had to the left of it too."""
    upwards = rows.assign(**{y: (direction(y) or 1) * rows[y]})
    line = rows[pareto_front(upwards, [x, y])].sort_values([x, y])
    if x_from is not None:
        line = line[line[x] >= x_from]
    right, up = numbers(line[x]), numbers(line[y])
    marked = range(len(right))
    if x_from is not None and len(right):
        right, up = np.append(x_from, right), np.append(up[0], up)
        marked = range(1, len(right))
    ax.plot(right, up, drawstyle="steps-pre", markevery=list(marked), **look)
