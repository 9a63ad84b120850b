"""The one container that every page is made of, and its four formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ._csv import csv_text
from ._json import OWN_KEYS, json_text
from ._markdown import markdown_text
from ._parts import Picture, Section, Table
from ._responsible_use import before_you_act

_FORMATS = ("html", "md", "json", "csv")


@dataclass(frozen=True, eq=False)
class Report:
    """A page that can be saved as HTML, Markdown, JSON and CSV.

    All text is escaped in each format. The HTML is one file without scripts that loads nothing.
    HTML and Markdown end with what to think of before a report is acted upon
    (`responsible_use`).

    Args:
        title: A few words.
        lead: What was assessed, one or two sentences.
        sections: The body.
        data: Further values for the JSON file, at its top level beside its own: ``title``,
            ``lead``, ``sections`` (the sentences) and ``tables`` (all of the page, pictures' too).
            `report_schema` describes them.
        markdown_files: Further files for the format md: their text by their name.

    Raises:
        ValueError: If two tables have one name, or ``data`` has a key of the JSON file's own.

    Example:
        >>> import tempfile
        >>> from fairclip.metrics import Report, Section
        >>> report = Report("Audit", "Two groups.", (Section("Limits", ("Few rows.",)),), {"n": 4})
        >>> sorted(report.save(tempfile.mkdtemp(), formats=("md", "json")))
        ['report.json', 'report.md']
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    data: dict[str, Any]
    markdown_files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [table.name for table in self.tables() if table.name]
        if len(set(names)) < len(names):
            raise ValueError(f"`sections` must have tables of different names, got {names}.")
        if taken := OWN_KEYS & set(self.data):
            raise ValueError(f"`data` must not have the keys {sorted(taken)}.")

    def tables(self) -> list[Table]:
        """Return every table of the page, those under pictures too, in reading order."""
        items = [item for section in self.sections for item in section.body]
        return [
            Table(item.table, item.caption, item.name) if isinstance(item, Picture) else item
            for item in items
            if isinstance(item, Picture | Table)
        ]

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = _FORMATS,
        stem: str = "report",
    ) -> dict[str, Path]:
        """Write the report; nothing is written unless all of it can be made.

        Args:
            folder: Where to write; made if missing, other files in it are left alone.
            formats: Any of html, md, json, csv (one file for each named table).
            stem: Name of the files of the page, without ending.

        Returns:
            The path of each file, by its name.

        Raises:
            ValueError: If a format is unknown.
        """
        if unknown := set(formats) - set(_FORMATS):
            raise ValueError(f"`formats` must be of {_FORMATS}, got {sorted(unknown)}.")
        texts: dict[str, str] = {}
        page = replace(self, sections=(*self.sections, before_you_act()))
        if "html" in formats:
            texts[f"{stem}.html"] = page._html()
        if "md" in formats:
            texts |= {f"{stem}.md": markdown_text(page), **self.markdown_files}
        if "json" in formats:
            texts[f"{stem}.json"] = json_text(self)
        if "csv" in formats:
            texts |= {f"{t.name}.csv": csv_text(t.frame) for t in self.tables() if t.name}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            # UTF-8 has no lone surrogates; an array of strings may.
            data = text.encode("utf-8", "backslashreplace")
            (folder / name).write_bytes(data)
        return {name: folder / name for name in texts}

    def _html(self) -> str:
        from ._html import html_text

        return html_text(self)
