"""What happened in training, over the steps."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._canvas import add_legend, canvas, finish
from ._choice import numbers
from ._curves import curves, name_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 100
_LONGEST_BESIDE = 18  # characters of a name that stands beside its line
_MOST_BESIDE = 7
_QUANTITIES = {
    "factor": "factor on the group's gradient",
    "cap_norm": "gradient norm that the cap used",
    "norm": "norm of the group's gradient",
    "share": "share of the update",
}


def plot_telemetry(
    trace_frame: pd.DataFrame, ax: "Axes | None" = None, *, quantity: str = "factor"
) -> "Axes":
    """Draw one quantity of a training trace, a line a group; long traces as means of steps.

    Up to 12 groups have their own colours. Of more, the extremes of the mean and the groups with
    the most rows have, at most 40 are drawn, and the title says so.

    Args:
        trace_frame: `Trace.to_frame()`: columns ``step`` and ``factor[<group>]``, ...; ``n[...]``
            tells the largest groups.
        ax: Where to draw; None makes a figure.
        quantity: Which columns: "factor" (dimensionless), "cap_norm" or "norm" (L2, in units of the
            gradient) or "share" (of the update; negative where a group pulls against it).

    Returns:
        The axes.

    Raises:
        KeyError: If the frame has no such columns.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_telemetry
        >>> trace = pd.DataFrame({"step": [0, 1], "factor[a]": [1.0, 0.5]})
        >>> plot_telemetry(trace).get_ylabel()
        "factor on the group's gradient"
    """
    columns = [name for name in trace_frame.columns if name.startswith(f"{quantity}[")]
    if not columns:
        raise KeyError(f"{quantity}[...]")
    groups = [name[len(quantity) + 1 : -1] for name in columns]
    values = pd.DataFrame({name: numbers(trace_frame[name]) for name in columns})
    counts = [f"n[{group}]" for group in groups]
    has_sizes = set(counts) <= set(trace_frame.columns)
    chosen = curves(
        [group.replace("][", ": ") for group in groups],  # <layer>: <group>
        values.mean().to_numpy(),
        trace_frame[counts].mean().to_numpy(np.float64) if has_sizes else None,
    )
    width = max(1, -(-len(values) // _MAX_POINTS))
    blocks = np.arange(len(values)) // width
    steps = trace_frame["step"].reset_index(drop=True).groupby(blocks).mean()
    means = values.iloc[:, chosen.positions].groupby(blocks).mean()
    names = [] if _fit_beside(means, chosen.names()) else chosen.names()
    note = f"Each point is the mean of {width:,} steps.\n" if width > 1 else ""
    with canvas(ax, 2.3, names=names, note=note + chosen.note) as ax:
        lines = [
            ax.plot(steps, means[name], **{**look, "marker": ""})[0]
            for name, look in zip(means, chosen.looks, strict=True)
        ]
        ax.margins(x=0)
        if not (values < 0).any(axis=None):
            ax.set_ylim(bottom=0)
        ax.set(xlabel="step", ylabel=_QUANTITIES.get(quantity, quantity))
        if names:
            add_legend(ax)
        else:
            name_ends(
                ax,
                [line for line, look in zip(lines, chosen.looks, strict=True) if "label" in look],
            )
        return finish(ax, note + chosen.note)


def _fit_beside(means: pd.DataFrame, names: list[str]) -> bool:
    """Return whether every line ends in a value, and there is room for its name there."""
    room = len(names) <= _MOST_BESIDE and max(map(len, names)) <= _LONGEST_BESIDE
    return room and len(means) > 0 and bool(means.iloc[-1].notna().all())
