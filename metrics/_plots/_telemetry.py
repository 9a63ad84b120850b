"""What happened in training, over the steps."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._canvas import COLOURS, add_legend, finish, label, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 300


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
