"""A report as Markdown. The pictures' figures stand in place of the pictures."""

import re
from typing import TYPE_CHECKING

import pandas as pd

from ._format import cells, flat, numeric_columns
from ._parts import Picture, Table

if TYPE_CHECKING:
    from ._document import Report


def markdown_text(report: "Report") -> str:
    """Return the page; whatever Markdown or HTML would act on is escaped."""
    blocks = [f"# {_escape(report.title)}", _escape(report.lead)]
    for section in report.sections:
        blocks.append(f"## {_escape(section.heading)}")
        blocks += [_block(item) for item in section.body]
    return "\n\n".join(blocks) + "\n"


def _block(item: str | Table | Picture) -> str:
    if isinstance(item, str):
        return _escape(item)
    frame = item.table if isinstance(item, Picture) else item.frame
    return f"{_escape(item.caption)}\n\n{_table(frame)}"


def _table(frame: pd.DataFrame) -> str:
    header = [_escape(str(name)) for name in flat(frame)]
    rule = ["---:" if numeric else "---" for numeric in numeric_columns(frame)]
    body = [[_escape(cell.text) for cell in row] for row in cells(frame)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *body])


def _escape(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|#~])", r"\\\1", text)
    return " ".join(text.split())
