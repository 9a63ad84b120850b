"""Families of arms as lines: one figure against another."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import pandas as pd

from ._canvas import COLOURS, DASHES, MARKERS, add_legend, canvas, finish
from ._choice import numbers
from ._words import axis_label, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_fronts(
    fronts: pd.DataFrame,
    x: str,
    y: str,
    ax: "Axes | None" = None,
    *,
    main: Collection[str] = (),
    arms: pd.DataFrame | None = None,
) -> "Axes":
    """Draw a line a family through its points, from left to right.

    Args:
        fronts: Columns ``family`` and both figures, one row a point.
        x: Figure to the right, for instance "accuracy".
        y: Figure upwards, for instance "worst_cell_accuracy".
        ax: Where to draw; None makes a figure.
        main: Families drawn thick and filled; the others are thin and hollow.
        arms: Single arms to draw as small grey points: both figures.

    Returns:
        The axes.

    Raises:
        KeyError: If a column is missing.

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
    note = "Small, grey: single arms." if arms is not None else ""
    with canvas(ax, 3.2, names=list(families), note=note) as ax:
        if arms is not None:
            ax.plot(
                numbers(arms[x]), numbers(arms[y]), "o", color="#808080", markersize=3, alpha=0.4
            )
        for i, (name, rows) in enumerate(families.items()):
            line = rows.sort_values([x, y])
            colour, is_main = COLOURS[i % len(COLOURS)], name in main
            ax.plot(
                numbers(line[x]),
                numbers(line[y]),
                color=colour,
                marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                linestyle=DASHES[i % len(DASHES)],
                linewidth=2.4 if is_main else 0.9,
                markersize=7 if is_main else 5,
                markerfacecolor=colour if is_main else "none",
                label=label(name),
                zorder=3 if is_main else 2,
            )
        ax.set(xlabel=axis_label(x), ylabel=axis_label(y))
        add_legend(ax)
        return finish(ax, note)
