"""Whether a score means for each group what it says."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._frames import OVERALL
from ._canvas import add_legend, canvas, finish, ink
from ._curves import curves, split

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_calibration(calibration: pd.DataFrame, ax: "Axes | None" = None) -> "Axes":
    """Draw the observed share of each bin of scores against its mean score, a line a group.

    On the dashed diagonal, of the rows with a score of .7 seven in ten have the favourable label;
    below it the score promises more than is found. Up to 12 groups have their own colours. Of more,
    those furthest above and below and the largest have, at most 40 are drawn, and the title says
    so. Bins without rows are not drawn.

    Args:
        calibration: `Audit.calibration`: index ``group, bin``; columns ``n`` (rows) and, as shares
            in [0, 1], ``mean_score, observed, low, high``.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        KeyError: If a column is missing.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_calibration
        >>> bins = pd.DataFrame(
        ...     {"n": [50], "mean_score": [0.24], "observed": [0.3], "low": [0.19], "high": [0.44]},
        ...     index=pd.MultiIndex.from_tuples([("a", 3)], names=["group", "bin"]),
        ... )
        >>> plot_calibration(bins).get_ylabel()
        'observed share'
    """
    groups = split(calibration, ["n", "mean_score", "observed", "low", "high"])
    everyone = groups.pop(OVERALL, None)
    chosen = curves(
        list(groups),
        np.array([_excess(bins) for bins in groups.values()], np.float64),
        np.array([bins["n"].sum() for bins in groups.values()], np.float64),
        by="observed minus scored",
    )
    tables = list(groups.values())
    note = (
        "Dashed: observed as scored.\nUpright lines: intervals.\n"
        f"Area of a marker: share of the group's rows.\n{chosen.note}"
    )
    names = chosen.names() + ([] if everyone is None else [OVERALL])
    with canvas(ax, 4, names=names, note=note) as ax:
        ax.plot([0, 1], [0, 1], color=ink(ax), linestyle="--", linewidth=1, zorder=1)
        if everyone is not None:
            _draw(ax, everyone, {"color": ink(ax), "marker": "D", "label": OVERALL})
        for k, look in zip(chosen.positions, chosen.looks, strict=True):
            _draw(ax, tables[k], look)
        ax.set(xlabel="mean score of the bin", ylabel="observed share")
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        add_legend(ax)
        return finish(ax, note)


def _excess(bins: pd.DataFrame) -> float:
    """Return the observed minus the scored share of all rows."""
    known = bins.dropna()
    total = known["n"].sum()
    gap = known["n"] * (known["observed"] - known["mean_score"])
    return float(gap.sum() / total) if total > 0 else float("nan")


def _draw(ax: "Axes", bins: pd.DataFrame, look: dict[str, Any]) -> None:
    x, y = bins["mean_score"].to_numpy(), bins["observed"].to_numpy()
    if "label" not in look:
        ax.plot(x, y, **look)
        return
    # The markers are drawn below, each in its size; the legend takes this line's.
    ax.plot(x, y, **{**look, "linewidth": 1}, markersize=5, markevery=[])
    colour = look["color"]
    ax.vlines(x, bins["low"], bins["high"], color=colour, linewidth=0.6)
    share = bins["n"].to_numpy() / max(bins["n"].sum(), 1)
    ax.scatter(x, y, 6 + 120 * share, color=colour, marker=look["marker"], linewidths=0, zorder=3)
