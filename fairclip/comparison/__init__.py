"""Arms × seeds on one table: a table in, a run folder with the trade-off report out.

:func:`compare` trains the same network without a cap, with caps, and with the rivals of a cap, in
each seed on the same split, from the same initial weights, over the same batches; the arms are
in ``_arms.py``. :class:`Settings` is everything that the results depend on beside the data.
:func:`prepare` checks all of it before anything is written; a :class:`Plan` runs.
"""

from fairclip.comparison._compare import compare
from fairclip.comparison._errors import RunError
from fairclip.comparison._plan import Comparison, Plan, prepare
from fairclip.comparison._results import HEADLINES, format_change, format_worst_cell
from fairclip.comparison._select import select_arm
from fairclip.comparison._settings import Settings

__all__ = [
    "HEADLINES",
    "Comparison",
    "Plan",
    "RunError",
    "Settings",
    "compare",
    "format_change",
    "format_worst_cell",
    "prepare",
    "select_arm",
]
