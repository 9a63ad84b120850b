"""How the lines of several groups are told apart, named and chosen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._canvas import COLOURS, DASHES, FONT_SIZE, MARKERS
from ._choice import Floats, left_out, notable, numbers
from ._words import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_MOST_NAMED = 12
_PALE = {"color": "#808080", "alpha": 0.5, "linewidth": 0.6, "zorder": 1.5}


class Curves(NamedTuple):
    """Which groups to draw, (C,) positions, and how: what to tell `Axes.plot` about each."""

    positions: NDArray[np.intp]
    looks: list[dict[str, Any]]
    note: str

    def names(self) -> list[str]:
        """Return the names that the picture gives."""
        return [look["label"] for look in self.looks if "label" in look]


def curves(names: Sequence[str], values: Floats, sizes: Floats | None, by: str = "") -> Curves:
    """Choose at most 40 groups and tell them apart.

    Up to 12 have a colour, a dash and a marker that no other one has together. Of more, so have
    seven, the extremes of `values` and the largest; the others are pale and have no name.
    """
    drawn = notable(values, sizes)
    most = _MOST_NAMED if len(drawn) <= _MOST_NAMED else len(COLOURS)
    named = drawn[notable(values[drawn], None if sizes is None else sizes[drawn], most)]
    looks = [
        _look(int(np.searchsorted(named, k)), names[k], is_undefined=bool(np.isnan(values[k])))
        if k in named
        else _PALE
        for k in drawn
    ]
    note = [left_out(len(drawn), len(names), has_sizes=sizes is not None, by=by)]
    if len(named) < len(drawn):
        note.append(f"In colour: the {len(named)} most extreme or largest.")
    return Curves(drawn, looks, "\n".join(filter(None, note)))


def split(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return these columns of each group, indexed by the second level of `frame`'s index."""
    names, index = (frame.index.get_level_values(level) for level in (0, 1))
    table = pd.DataFrame({name: numbers(frame[name]) for name in columns}, index=index)
    return {str(name): part for name, part in table.groupby(names.to_numpy(), sort=False)}


def _look(i: int, name: str, *, is_undefined: bool) -> dict[str, Any]:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        "label": label(name) + (" (n/a)" if is_undefined else ""),
        "linewidth": 1.4,
    }


def name_ends(ax: "Axes", lines: "Sequence[Line2D]") -> None:
    """Write each line's name beside its right end, moved apart where they would overlap."""
    ends = [np.asarray(line.get_ydata(), np.float64)[-1] for line in lines]
    low, high = ax.get_ylim()
    height = ax.bbox.height / ax.figure.dpi * 72  # points
    step = 1.25 * FONT_SIZE / height * (high - low)
    order = np.argsort(ends)
    places = np.array(ends)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + step)
    places[-1] = min(places[-1], high)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - step)
    sideways = ax.get_yaxis_transform()
    for place, k in zip(places, order, strict=True):
        ax.annotate(
            str(lines[k].get_label()),
            (1, ends[k]),
            (1.05, place),
            xycoords=sideways,
            textcoords=sideways,
            va="center",
            fontsize=FONT_SIZE,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": lines[k].get_color(), "linewidth": 1},
        )
