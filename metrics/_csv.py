"""CSV text that a spreadsheet shows and does not run."""

from typing import Any

import pandas as pd

from ._cells import flat

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def neutralise_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before every string and column name that a spreadsheet would run.

    Numbers stay numbers, negative ones too.

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
    safe = frame.map(_neutralise)
    return safe.set_axis([_neutralise(column) for column in frame.columns], axis=1)


def csv_text(frame: pd.DataFrame) -> str:
    """Return the table as CSV in full precision; NaN is an empty field."""
    return str(neutralise_formulas(flat(frame)).to_csv(index=False, lineterminator="\n"))


def _neutralise(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS_FORMULA) else value
