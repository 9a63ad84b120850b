"""How often each stage of a training step acted."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._canvas import COLOURS, FONT_SIZE, LINE, add_legend, canvas, finish
from ._choice import numbers
from ._words import label, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_stages(frame: pd.DataFrame, ax: "Axes | None" = None) -> "Axes":
    """Draw the share of the steps in which each stage acted, one bar a stage and arm.

    An undefined share (the arm has no such stage) leaves a gap; a share of 0 is written.

    Args:
        frame: One row an arm, named by the index; one column a stage, shares of the steps in
            [0, 1]. From ``fairclip.advise(trace).stages``: the column ``acted`` where the scope is
            "all", stages across.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_stages
        >>> acted = pd.DataFrame({"cap": [0.9], "clip": [0.2]}, index=["fair_cap"])
        >>> plot_stages(acted).get_xlabel()
        'steps in which the stage acted'
    """
    from matplotlib.ticker import PercentFormatter

    names = [label(stage) for stage in frame.columns]
    arms = [wrapped(arm) for arm in frame.index]
    thickness = 0.8 / max(len(names), 1)  # of the distance between arms
    n_lines = max(len(names), *(1 + arm.count("\n") for arm in arms), 1)
    with canvas(ax, (0.1 + LINE * n_lines) * len(arms), names=names) as ax:
        for i, stage in enumerate(names):
            places = np.arange(len(arms)) + (i - (len(names) - 1) / 2) * thickness
            shares = numbers(frame.iloc[:, i])
            ax.barh(places, shares, 0.85 * thickness, color=COLOURS[i % len(COLOURS)], label=stage)
            for place, share in zip(places, shares, strict=True):
                if not np.isnan(share):
                    ax.annotate(
                        _percent(share),
                        (share, place),
                        (3, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=FONT_SIZE - 1,
                    )
        ax.set_yticks(range(len(arms)), arms)
        ax.set_ylim(max(len(arms), 1) - 0.5, -0.5)
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        ax.set_xlabel("steps in which the stage acted")
        add_legend(ax)
        ax.tick_params(axis="y", length=0)
        finish(ax)
        ax.grid(visible=False, axis="y")
        return ax


def _percent(share: float) -> str:
    """Return a share in percent, with a decimal where rounding would hide that it is not 0 or 1."""
    hides = 0 < share < 0.005 or 0.995 <= share < 1
    return f"{100 * share:.{1 if hides else 0}f} %"
