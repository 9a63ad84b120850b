"""What a terminal shows, whatever is in the data."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST = 1_000  # characters of a message: some name what a user's file holds
_JOINER = "\u200d"  # within an emoji


def open_console() -> "Console":
    """Return the console of stdout; square brackets and colons in texts are just that."""
    from rich.console import Console

    # A pipe has no width; tables are not to be cut to a guess of it.
    known = "COLUMNS" in os.environ or Console().is_terminal
    return Console(highlight=False, markup=False, emoji=False, width=None if known else 120)


def one_line(text: object, longest: int = _LONGEST) -> str:
    """Return the text in one line without control characters, its middle cut out if it is long."""
    shown = str(text)
    if len(shown) > longest:
        head = longest * 2 // 3
        shown = f"{shown[:head]}…{shown[len(shown) - (longest - head - 1) :]}"
    return "".join(c if c.isprintable() or c == _JOINER else " " for c in shown)
