"""A CSV file -> tables, in three passes: is it one, of what types, and what is in it."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ._sniff import open_text

_CELLS_AT_ONCE = 1_000_000


def names_of_csv(path: Path, *, progress: bool) -> list[str]:
    """Return the column names, when every row has as many fields."""
    with open_text(path, "checking the rows", progress=progress) as text:
        rows = csv.reader(text)
        try:
            header: list[str] = next((row for row in rows if row), [])
            names = _checked(header)
            n_rows = 0
            for row in rows:
                n_rows += 1
                if len(row) != len(header) and any(map(str.strip, row)):
                    raise ValueError(
                        f"line {rows.line_num:,} has {len(row)} fields and the header "
                        f"{len(header)}; put text that holds commas in quotes"
                    )
        except csv.Error as error:  # a field of more than 128 KB
            raise ValueError(
                f"line {rows.line_num:,} has no end ({error}); a quote is not closed, or it is no "
                "table"
            ) from error
    if n_rows == 0:
        raise ValueError("it has no rows")
    return names


def read_csv(
    path: Path, names: Sequence[str], columns: Sequence[str], *, progress: bool
) -> Iterator[pd.DataFrame]:
    """Yield these columns of a file with these names; a column has one type in all parts."""
    with _parts(path, names, columns, {}, "finding the types", progress) as parts:
        types: dict[str, set[str]] = {name: set() for name in columns}
        for part in parts:
            for name in columns:
                types[name].add(_type(part[name]))
    dtype = {name: _common(found) for name, found in types.items()}
    given = {name: found for name, found in dtype.items() if found is not None}
    with _parts(path, names, columns, given, "reading", progress) as parts:
        for part in parts:
            yield part[list(columns)]


def _checked(header: list[str]) -> list[str]:
    if not header:
        raise ValueError("it is empty")
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(header) == 1 and separator in header[0]:
            raise ValueError(f"its columns are separated by {name}; save it with commas")
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:  # pandas would call the second one `name.1`
        raise ValueError(f"its header has the column `{twice}` more than once; rename one")
    return names


@contextmanager
def _parts(
    path: Path,
    names: Sequence[str],
    columns: Sequence[str],
    dtype: Mapping[str, type],
    doing: str,
    progress: bool,
) -> Iterator[Iterator[pd.DataFrame]]:
    with (
        open_text(path, doing, progress=progress) as text,
        pd.read_csv(
            text,
            names=list(names),
            header=0,
            usecols=list(columns),
            dtype=dict(dtype),
            low_memory=False,  # else a part is read in parts that differ in type
            chunksize=max(_CELLS_AT_ONCE // len(names), 1_000),
        ) as parts,
    ):
        yield parts


def _type(part: "pd.Series[Any]") -> str:
    """Return what pandas made of a part: integer, floating, boolean, string; empty is nothing."""
    return pd.api.types.infer_dtype(part) if part.notna().any() else "empty"


def _common(found: set[str]) -> type | None:
    """Return the type of a column from those of its parts, None for what pandas makes of it."""
    if found <= {"integer", "floating", "empty"}:
        return int if found == {"integer"} else float
    # In a part before the first text of its column, pandas read 01 as the number 1.
    return None if found <= {"boolean", "empty"} else str
