"""Faults that clipping hides: looked for in a model and one batch, or in a run's trace.

:func:`diagnose` takes a model, a batch of B rows, a loss function and maybe an optimizer, and
changes none of them; :meth:`Diagnosis.from_trace` takes the frame of a trace, a row a step. Both
return a :class:`Diagnosis` of :class:`Finding`, with the measurements as a table. Each family of
checks is a file that measures numbers into the table and reads its findings from nothing else.
"""

from fairclip.diagnosis._diagnose import diagnose
from fairclip.diagnosis._diagnosis import Diagnosis
from fairclip.diagnosis._finding import Finding

__all__ = ["diagnose", "Diagnosis", "Finding"]  # noqa: RUF022  data-flow order
