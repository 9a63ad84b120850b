"""CSV text that a spreadsheet shows and does not run."""

import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from ._format import flat

# With apostrophes before it too, so that `restore_formulas` knows which one to take away.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NEUTRAL = re.compile(r"'+[=+\-@\t\r]")


def neutralise_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before every string and column name that a spreadsheet would run.

    Numbers stay numbers, negative ones too. `restore_formulas` gives the strings back.

    Args:
        frame: Any table.

    Returns:
        A copy.

    Source:
        OWASP, https://owasp.org/www-community/attacks/CSV_Injection.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import neutralise_formulas
        >>> frame = pd.DataFrame({"group": ["=cmd()", "b"], "n": [-1, 2]})
        >>> neutralise_formulas(frame).to_dict("list")
        {'group': ["'=cmd()", 'b'], 'n': [-1, 2]}
    """
    return _map_strings(frame, lambda text: f"'{text}" if _FORMULA.match(text) else text)


def restore_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Undo `neutralise_formulas`.

    Args:
        frame: Any table.

    Returns:
        A copy.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import neutralise_formulas, restore_formulas
        >>> frame = pd.DataFrame({"group": ["=cmd()", "'=cmd()"]})
        >>> restore_formulas(neutralise_formulas(frame)).equals(frame)
        True
    """
    return _map_strings(frame, lambda text: text[1:] if _NEUTRAL.match(text) else text)


def csv_text(frame: pd.DataFrame) -> str:
    """Return the table as CSV in full precision; NaN is an empty field."""
    return str(neutralise_formulas(flat(frame)).to_csv(index=False, lineterminator="\n"))


def _map_strings(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def apply(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    return frame.map(apply).set_axis([apply(column) for column in frame.columns], axis=1)
