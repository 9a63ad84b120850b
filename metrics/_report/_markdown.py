"""A report as Markdown. The pictures' figures stand in place of the pictures."""

import re
from typing import TYPE_CHECKING

import pandas as pd

from ._format import grid, shown, shown_sentence
from ._parts import Item, Notes, Picture

if TYPE_CHECKING:
    from ._document import Report


def markdown_text(report: "Report") -> str:
    """Return the page; whatever Markdown or HTML would act on is escaped."""
    blocks = [f"# {_escape(shown(report.title))}", _line(report.lead)]
    for section in report.sections:
        blocks.append(f"## {_escape(shown(section.heading))}")
        blocks += [_block(item) for item in section.body]
    return "\n\n".join(blocks) + "\n"


def _block(item: Item) -> str:
    if isinstance(item, str):
        return _line(item)
    if isinstance(item, Notes):
        return "\n".join(f"- {_line(sentence)}" for sentence in item.sentences)
    frame = item.table if isinstance(item, Picture) else item.frame
    return f"{_line(item.caption)}\n\n{_table(frame)}"


def _table(frame: pd.DataFrame) -> str:
    columns, rows, n_more = grid(frame)
    if not columns or not rows:
        return "There are no rows."
    header = [_escape(column.name) for column in columns]
    rule = ["---:" if column.is_numeric else "---" for column in columns]
    body = [[_escape(cell.text) for cell in row] for row in rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *body])
    return f"{table}\n\n{n_more:,} more rows are in the JSON file." if n_more else table


def _line(text: str) -> str:
    # A sentence that starts like a list, a rule or a quotation is none.
    return re.sub(r"^(\d*)((?:[-+=]+|[.)])(?=\s|$)|>)", r"\1\\\2", _escape(shown_sentence(text)))


def _escape(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"([\\`*\[\]|#~$]|(?<!\w)_|_(?!\w))", r"\\\1", text.replace("&", "&amp;"))
    text = text.replace("<", "&lt;").replace("@", "&#64;")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")  # no links of themselves
