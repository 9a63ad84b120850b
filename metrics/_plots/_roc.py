"""What a score finds against what it raises by mistake."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._frames import OVERALL
from ._canvas import add_legend, canvas, finish, ink
from ._curves import curves, split
from ._words import axis_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_roc(
    sweep: pd.DataFrame, ax: "Axes | None" = None, *, threshold: float | None = None
) -> "Axes":
    """Draw TPR against FPR over all thresholds, a line a group.

    The same threshold lies at different places on the lines of different groups: give the one in
    use, and it is marked on each. Up to 12 groups have their own colours. Of more, those with the
    highest and lowest area under the line and the largest have, at most 40 are drawn, and the title
    says so. A group without rows of both labels has no line.

    Args:
        sweep: `Audit.sweep`: index ``group, threshold``, thresholds falling; columns ``n`` (rows)
            and, as shares in [0, 1], ``tpr, fpr``. The group "overall" is drawn in black.
        ax: Where to draw; None makes a figure.
        threshold: The cut in use: rows with at least this score are predicted favourable.

    Returns:
        The axes.

    Raises:
        KeyError: If a column is missing.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_roc
        >>> sweep = pd.DataFrame(
        ...     {"n": [4] * 3, "tpr": [0.0, 0.5, 1.0], "fpr": [0.0, 0.0, 1.0]},
        ...     index=pd.MultiIndex.from_product([["a"], [1.0, 0.8, 0.1]]).set_names(
        ...         ["group", "threshold"]
        ...     ),
        ... )
        >>> plot_roc(sweep, threshold=0.5).get_ylabel()
        'TPR (higher is better)'
    """
    groups = split(sweep, ["n", "tpr", "fpr"])
    everyone = groups.pop(OVERALL, None)
    tables = list(groups.values())
    chosen = curves(
        list(groups),
        np.array([_area(points) for points in tables], np.float64),
        np.array([points["n"].max() for points in tables], np.float64),
        by="AUC",
    )
    lines = [(tables[k], look) for k, look in zip(chosen.positions, chosen.looks, strict=True)]
    names = chosen.names() + ([] if everyone is None else [OVERALL])
    marked = "" if threshold is None else f"Marked: the threshold {threshold:g}.\n"
    note = f"Dashed: a score that tells nothing.\n{marked}{chosen.note}"
    with canvas(ax, 4, names=names, note=note) as ax:
        ax.plot([0, 1], [0, 1], color=ink(ax), linestyle="--", linewidth=0.8, zorder=1)
        if everyone is not None:
            ours = {"color": ink(ax), "marker": "o", "linewidth": 1, "label": OVERALL}
            lines.append((everyone, ours))
        for points, look in lines:
            cut = _in_use(points, threshold) if "label" in look else []
            ax.plot(points["fpr"], points["tpr"], **look, markevery=cut, markersize=7)
        ax.set(xlabel=axis_label("fpr"), ylabel=axis_label("tpr"))
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        add_legend(ax)
        return finish(ax, note)


def _area(points: pd.DataFrame) -> float:
    fpr, tpr = points["fpr"].to_numpy(), points["tpr"].to_numpy()
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1])).sum() / 2) if len(fpr) > 1 else float("nan")


def _in_use(points: pd.DataFrame, threshold: float | None) -> list[int]:
    """Return the position of the lowest threshold that is not below the one in use."""
    if threshold is None:
        return []
    return [int(place) for place in np.flatnonzero(points.index >= threshold)[-1:]]
