"""A report as one HTML file."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ._format import flat, grid, shown, shown_sentence
from ._parts import Picture, Section, Table
from ._responsible_use import read

if TYPE_CHECKING:
    from ._document import Report

_FOLDER = Path(__file__).parent
_LETTER = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_RIGHT_TO_LEFT = re.compile(rf"{_LETTER}+(?:\s+{_LETTER}+)*")
_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r"""\sid=["']|href=["']#|url\(#""")


def html_text(report: "Report") -> str:
    """Return the page; everything in it is escaped except the pictures and the style sheet."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "grid": grid,
        "heading": heading,
        "paper": paper,
        "sentence": sentence,
        "shown": shown,
        "svg": svg,
    }
    style = Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))
    template = environment.get_template("report.html.jinja")
    return template.render(report=report, style=style, responsible_use=read())


def paper(section: Section) -> str:
    """Return the class of a section that is printed on paper turned on its side, or ""."""
    frames = [item.frame for item in section.body if isinstance(item, Table)]
    frames += [item.table for item in section.body if isinstance(item, Picture)]
    n_columns = max((flat(frame).shape[1] for frame in frames), default=0)
    return "wide dense" if n_columns > 18 else "wide" if n_columns > 12 else ""


def heading(text: str) -> Markup:
    """Return a few words, as `sentence` does."""
    return _isolated(shown(text))


def sentence(text: str) -> Markup:
    """Return a sentence in which words from right to left do not turn the numbers beside them."""
    return _isolated(shown_sentence(text))


def breakable(word: str) -> Markup:
    """Return a word of a table, which may be broken after an underscore."""
    return Markup(str(escape(word)).replace("_", "_<wbr>"))


def svg(picture: str, prefix: str) -> Markup:
    """Return a picture whose ids, and all that points to them, are its own in the page."""
    return Markup(_TAG.sub(lambda tag: _ID.sub(rf"\g<0>{prefix}-", tag[0]), picture))


def _isolated(text: str) -> Markup:
    return Markup(_RIGHT_TO_LEFT.sub(r"<bdi>\g<0></bdi>", str(escape(text))))
