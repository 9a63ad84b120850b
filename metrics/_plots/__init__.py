"""Tables in, pictures out: every plot draws into `ax`, or into a new figure, and returns the axes.

Drawn without pyplot, in colours that colour-blind readers can tell apart.
"""

from ._calibration import plot_calibration
from ._fronts import plot_fronts
from ._lines import plot_by_group, plot_changes
from ._roc import plot_roc
from ._stages import plot_stages
from ._svg import to_svg
from ._telemetry import plot_telemetry
from ._tradeoff import plot_tradeoff

__all__ = [
    "plot_by_group",
    "plot_calibration",
    "plot_changes",
    "plot_fronts",
    "plot_roc",
    "plot_stages",
    "plot_telemetry",
    "plot_tradeoff",
    "to_svg",
]
