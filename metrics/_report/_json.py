"""A report as JSON, and the schema of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ._format import flat, plain
from ._parts import Notes, Section

if TYPE_CHECKING:
    from ._document import Report

SCHEMA_ID = "urn:fairclip:report:1"
SCHEMA_VERSION = 1
OWN_KEYS = frozenset({"$schema", "schema_version", "title", "lead", "sections", "tables"})


def json_text(report: "Report") -> str:
    """Return the report's data, sentences and tables in full precision; NaN is null."""
    content = {
        "$schema": SCHEMA_ID,
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "lead": report.lead,
        **report.data,
        "sections": [
            {"heading": section.heading, "sentences": _sentences(section)}
            for section in report.sections
        ],
        "tables": [
            {"name": table.name, "caption": table.caption, **_table(table.frame)}
            for table in report.tables()
        ],
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``report.json``, which documents its fields.

    Its ``$id`` stands in every ``report.json`` under ``$schema``. A field may be added under the
    same ``schema_version``; one that is taken away or changes its meaning raises it.

    Example:
        >>> from fairclip.metrics import report_schema
        >>> report_schema()["$id"]
        'urn:fairclip:report:1'
    """
    text = Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _sentences(section: Section) -> list[str]:
    return [
        sentence
        for item in section.body
        if isinstance(item, str | Notes)
        for sentence in ([item] if isinstance(item, str) else item.sentences)
    ]


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    columns = flat(frame)
    return {
        "columns": [str(name) for name in columns],
        "rows": list(zip(*(column for _, column in columns.items()), strict=True)),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return _plain(_table(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return plain(value)
