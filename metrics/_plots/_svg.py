"""Figures as SVG for a page."""

import hashlib
import io
import re
import warnings
from typing import TYPE_CHECKING

from ._canvas import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_TAG = re.compile(r"<[^>]+>")  # text has no ">": it is escaped
_REFERENCE = re.compile(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)')
_FONT = re.compile(r"\bfont: (?:[\w-]+ )*?(?P<size>[\d.]+px) [^;\"]*|\bfont-family: [^;\"]*;? ?")


def to_svg(figure: "Figure | SubFigure") -> str:
    """Return a figure as an ``<svg>`` element, the same bytes for the same figure.

    It is made to stand in a page: the ground is transparent, what is black takes the colour of the
    text around it (``currentColor``), text stays text in the fonts around it, and the element has
    no size of its own. Its identifiers are those of no picture that differs.

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
        house_style(),
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "fairclip"}),
        warnings.catch_warnings(),
    ):
        # The reader's fonts draw what matplotlib's own font lacks (emoji, many scripts).
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    return _for_page(text[text.index("<svg") :])


def _for_page(svg: str) -> str:
    prefix = f"p{hashlib.sha256(svg.encode()).hexdigest()[:10]}-"

    def rewrite(match: re.Match[str]) -> str:
        tag = _REFERENCE.sub(prefix, match[0])
        tag = _FONT.sub(lambda font: f"font-size: {font['size']}" if font["size"] else "", tag)
        return tag.replace(": #000000", ": currentColor")

    root, rest = svg.split(">", 1)
    root = re.sub(r' (?:width|height)="[^"]*"', "", root)
    # On the root, since a style element would reach the whole page.
    root += ' fill="currentColor" stroke-linejoin="round" stroke-linecap="butt">'
    rest = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", rest, count=1, flags=re.DOTALL)
    return root + _TAG.sub(rewrite, rest)
