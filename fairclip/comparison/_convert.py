"""Values of settings as Python, TOML or the command line, where all is text, give them."""

from collections.abc import Callable
from typing import Any


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    names = (str(part).strip() for part in parts)
    return tuple(dict.fromkeys(name for name in names if name))


def _several(number: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def convert(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        return tuple(map(number, value if isinstance(value, list | tuple) else [value]))

    return convert


def _widths(value: Any) -> tuple[int, ...]:
    # An empty argument is easily a slip of the shell's, so the command line has a word for it.
    return () if value == "none" else _several(_integer)(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _reference(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return value


# For each setting that is not a choice: how it is read, and what it is called in an error.
CONVERT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "data": (_word, "a file or the name of an embedded set"),
    "reference": (_reference, "minority, smallest_norm, or a group's name or code"),
    "positive": (_text, "a value of the target"),
    "favourable": (_text, "a value of the target"),
    "target": (str, "a column name"),
    "select": (_word, "an objective and constraints"),
    "sensitive": (_names, "column names"),
    "drop": (_names, "column names"),
    "arms": (_names, "names of arms"),
    "rivals": (_names, "names of arms"),
    "max_ratio": (_several(float), "numbers"),
    "hidden": (_widths, "integers, or none"),
    "pool_below": (_integer, "an integer"),
    "min_reference_rows": (_integer, "an integer"),
    "seeds": (_integer, "an integer"),
    "epochs": (_integer, "an integer"),
    "batch_size": (lambda value: None if value is None else _integer(value), "an integer"),
    "smoothing": (float, "a number"),
    "max_factor": (float, "a number"),
    "lr": (lambda value: None if value is None else float(value), "a number"),
    "keep_sensitive": (_flag, "true or false"),
    "preserve_norm": (_flag, "true or false"),
    "quick": (_flag, "true or false"),
}
