"""A report as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ._format import flat, plain

if TYPE_CHECKING:
    from ._document import Report

SCHEMA_VERSION = 1


def json_text(report: "Report") -> str:
    """Return the report's data and every table in full precision; NaN is null."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        **report.data,
        "tables": [
            {"name": table.name, "caption": table.caption, **_table(table.frame)}
            for table in report.tables()
        ],
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


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
