"""Tables, pictures and sentences in; one page as HTML, Markdown, JSON and CSV out."""

from ._csv import neutralise_formulas, restore_formulas
from ._document import Report
from ._format import format_number
from ._json import report_schema
from ._parts import Notes, Picture, Section, Table

__all__ = [
    "Notes",
    "Picture",
    "Report",
    "Section",
    "Table",
    "format_number",
    "neutralise_formulas",
    "report_schema",
    "restore_formulas",
]
