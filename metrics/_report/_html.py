"""A report as one HTML file."""

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ._format import cells, flat, numeric_columns

if TYPE_CHECKING:
    from ._document import Report

_FOLDER = Path(__file__).parent


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
        "cells": cells,
        "columns": lambda frame: list(zip(flat(frame), numeric_columns(frame), strict=True)),
        "svg": Markup,
    }
    style = Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.jinja").render(report=report, style=style)
