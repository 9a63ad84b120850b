"""Tables, pictures and sentences in; one page as HTML, Markdown, JSON and CSV out."""

from ._csv import neutralise_formulas, restore_formulas
from ._document import Report
from ._format import format_number
from ._json import report_schema
from ._model_card import model_card
from ._parts import Notes, Picture, Section, Table
from ._responsible_use import responsible_use
from ._thresholds import read_thresholds

__all__ = [
    "Notes",
    "Picture",
    "Report",
    "Section",
    "Table",
    "format_number",
    "model_card",
    "neutralise_formulas",
    "read_thresholds",
    "report_schema",
    "responsible_use",
    "restore_formulas",
]
