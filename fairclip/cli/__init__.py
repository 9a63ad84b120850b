"""The command line: reads arguments, calls :func:`fairclip.compare` and `fairclip.metrics.audit`.

What a command needs is imported when it runs: `--help` is quick, and `audit` needs no torch.
Exit codes: 0; 1 where a check of `audit` failed; 2 for input that cannot be used, with one line
that says why; 130 when interrupted.
"""

from fairclip.cli import _audit, _compare, _study  # noqa: F401  (they add their commands to the app)
from fairclip.cli._app import app, main

__all__ = ["app", "main"]
