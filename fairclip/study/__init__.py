"""The study: comparisons over many settings in, one page of verdicts out.

:func:`study_settings` are the comparisons, :func:`run_study` runs them and writes the page. What
is judged and how is in ``_views.py`` (which arms count), ``_fronts.py`` (what a family reaches),
``_verdicts.py`` (the words) and ``_goal.py``; all of it reads the tables that comparisons leave.
"""

from fairclip.study._run import run_study
from fairclip.study._settings import Setting, study_settings

__all__ = ["Setting", "run_study", "study_settings"]
