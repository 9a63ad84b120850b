"""The axes that a plot draws into, and how they look."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ours: each has a contrast of 3 or more with #fff and with #0d1117, and any two stay further apart
# for dichromats than those of M. Okabe, K. Ito (2008), https://jfly.uni-koeln.de/color/.
COLOURS = ("#1A67BB", "#D37605", "#22A574", "#B61D8A", "#A083D7", "#676700", "#A81AFC")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

WIDTH = 4.9  # inches, so that the text is 9 pixels high where a phone leaves 320 for the picture
FONT_SIZE = 10  # points
LINE = 1.2 * FONT_SIZE / 72  # inches
_NOTE_WIDTH = 44  # characters: what fits beside the longest names

_STYLE = {
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Set the reader's matplotlib settings aside."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


@contextmanager
def canvas(
    ax: "Axes | None", height: float, *, names: Sequence[str] = (), note: str = ""
) -> Iterator["Axes"]:
    """Give `ax`, or axes about `height` inches high in a new figure, with room for the words."""
    if ax is not None:
        yield ax
        return
    from matplotlib.figure import Figure

    n_lines = _wrapped(note).count("\n") + 1.2 * -(-len(names) // _n_columns(names))
    with house_style():
        ax = Figure(figsize=(WIDTH, 0.9 + height + LINE * n_lines), layout="constrained").subplots()
        ax.locator_params(axis="x", nbins=6)
        yield ax


def ink(ax: "Axes") -> str:
    """Return the colour of the axes' text, for lines that are not data."""
    return str(ax.xaxis.label.get_color())


def finish(ax: "Axes", note: str = "") -> "Axes":
    """Give the axes the house look, with a note above them."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(color=ink(ax), labelcolor=ink(ax), labelsize=FONT_SIZE)
    ax.grid(color=ink(ax), alpha=0.15, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_title(_wrapped(note), fontsize=FONT_SIZE, loc="left")
    return ax


def add_legend(ax: "Axes") -> None:
    """Name the lines or points below the axes, where they hide nothing."""
    from matplotlib.transforms import ScaledTranslation

    names = ax.get_legend_handles_labels()[1]
    if not names:
        return
    below = ScaledTranslation(0, -0.55, ax.figure.dpi_scale_trans)  # inches: ticks and axis label
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes + below,
        borderaxespad=0,
        borderpad=0,
        ncols=_n_columns(names),
        frameon=False,
        fontsize=FONT_SIZE,
        handlelength=2.4,
        columnspacing=1.2,
    )


def _wrapped(note: str) -> str:
    return "\n".join(textwrap.fill(line, _NOTE_WIDTH) for line in note.splitlines())


def _n_columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names), default=0) <= 22 else 1
