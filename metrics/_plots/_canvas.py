"""Axes without pyplot, and figures as SVG."""

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# M. Okabe, K. Ito (2008), https://jfly.uni-koeln.de/color/; their yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_LONGEST_LABEL = 40


def new_axes(width: float, height: float) -> "Axes":
    """Return axes in a figure of this size, inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def finish(ax: "Axes") -> "Axes":
    """Give the axes the house look."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#d0d7de", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.locator_params(axis="x", nbins=6)
    return ax


def add_legend(ax: "Axes") -> None:
    """Name the lines or points below the axes, where they hide nothing."""
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False, fontsize=9)


def label(text: object) -> str:
    """Return a user's word as matplotlib shows it: one line, no mathematics, not too long."""
    words = " ".join(str(text).split()).replace("$", r"\$")
    words = words if len(words) <= _LONGEST_LABEL else f"{words[: _LONGEST_LABEL - 1]}…"
    return f" {words}" if words.startswith("_") else words  # "_" would keep it out of the legend


def to_svg(figure: "Figure | SubFigure") -> str:
    """Return a figure as an ``<svg>`` element, the same bytes for the same figure.

    Text stays text, in the reader's fonts.

    Args:
        figure: ``ax.figure`` of any plot.

    Returns:
        The element, without XML prologue and metadata.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import plot_changes, to_svg
        >>> changes = pd.DataFrame({"change": [0.1], "low": [0.0], "high": [0.2]}, index=["a"])
        >>> to_svg(plot_changes(changes).figure)[:4]
        '<svg'
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "fairclip"}),
        warnings.catch_warnings(),
    ):
        # The reader's fonts draw what matplotlib's own font lacks (emoji, many scripts).
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.figure.savefig(
            buffer,
            format="svg",
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :]
