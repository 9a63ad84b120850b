"""Table cells and sentences as people and machines read them."""

import re
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

LONGEST_TABLE = 10_000
_LONGEST_WORD = 160
_LONGEST_SENTENCE = 1200

# Control characters become their pictures. Those that turn the direction of all that follows, and
# those that no page may hold, become the replacement character.
_VISIBLE = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
    | dict.fromkeys((*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF), 0xFFFD)
)


class Column(NamedTuple):
    """A column's name as shown, and what stands under it."""

    name: str
    is_numeric: bool
    is_header: bool


class Cell(NamedTuple):
    """What is shown, and the number behind it in full precision ("" for words)."""

    text: str
    number: str
    is_numeric: bool


class Grid(NamedTuple):
    """A table as shown, and how many rows it has beyond those."""

    columns: list[Column]
    rows: list[list[Cell]]
    n_more: int


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its index as leading columns; a plain row count is dropped."""
    if _header_width(frame) == 0:
        return frame
    named = frame.rename_axis(["" if name is None else str(name) for name in frame.index.names])
    return named.reset_index(allow_duplicates=True)


def grid(frame: pd.DataFrame) -> Grid:
    """Return `flat`, formatted. A column is numeric if all its cells are numbers or n/a."""
    width = _header_width(frame)
    names, values = [], []
    for name, column in flat(frame.iloc[:LONGEST_TABLE]).items():
        names.append(str(name))
        values.append([_cell(value) for value in column])
    columns = [
        Column(shown(name), all(cell.is_numeric for cell in cells), position < width)
        for position, (name, cells) in enumerate(zip(names, values, strict=True))
    ]
    rows = [list(row) for row in zip(*values, strict=True)]
    return Grid(columns, rows, len(frame) - len(rows))


def shown(text: str) -> str:
    """Return a word as a page can hold it: nothing invisible, and not too long."""
    return _cut(text, _LONGEST_WORD).translate(_VISIBLE)


def shown_sentence(text: str) -> str:
    """Return a sentence as a page can hold it, its words too."""
    words = re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: _cut(word[0], 80), text)
    return _cut(words, _LONGEST_SENTENCE).translate(_VISIBLE)


def plain(value: Any) -> Any:
    """Return what JSON can hold: NaN becomes None, infinity a word."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value if isinstance(value, bool | int | float) else str(value)


def format_number(value: float, decimals: int = 3) -> str:
    """Return a share or a p in words of one width; NaN is "n/a"."""
    return "n/a" if pd.isna(value) else f"{value:.{decimals}f}"


def _cut(text: str, longest: int) -> str:
    """Keep the two ends; the first digits of its SHA-256 tell a cut text from others."""
    if len(text) <= longest:
        return text
    digits = sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    left_out = f" … ({len(text):,} characters, SHA-256 {digits}) … "
    return f"{text[: longest // 2]}{left_out}{text[-longest // 4 :]}"


def _header_width(frame: pd.DataFrame) -> int:
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    return 0 if plain else frame.index.nlevels


def _cell(value: Any) -> Cell:
    value = plain(value)
    if value is None:
        return Cell("n/a", "", is_numeric=True)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "", is_numeric=False)
    if isinstance(value, int):
        return Cell(f"{value:,}", repr(value), is_numeric=True)
    if isinstance(value, float):
        return Cell(_decimals(value), repr(value), is_numeric=True)
    return Cell(shown_sentence(value) if value.strip() else "(blank)", "", is_numeric=False)


def _decimals(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.00005 or size >= 1e15:
        return f"{value:.1e}"
    if 0 < size < 0.0005:  # three decimals would print a number that is not 0 as 0
        return f"{value:.4f}"
    return f"{value + 0.0:,.3f}"  # + 0.0 takes the sign from -0.0
