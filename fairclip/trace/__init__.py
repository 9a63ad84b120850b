"""What happened in each step: one record a step in, a table of the kept steps out.

A `StepRecord` holds one step's numbers, (K,) by group or (L, K) by layer and group. A `Trace` keeps
them on the host, in bounded memory and without waiting for the device.
"""

from fairclip.trace._json_lines import JsonLines
from fairclip.trace._log import LogHandle
from fairclip.trace._record import RawStep, StepRecord
from fairclip.trace._trace import Acted, Trace, changed

__all__ = ["RawStep", "StepRecord", "Trace", "Acted", "changed", "LogHandle", "JsonLines"]  # noqa: RUF022 - in data-flow order
