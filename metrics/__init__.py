"""Audits and reports: labels, predictions and sensitive features in, tables and pages out.

``sensitive_features`` are raw columns of N rows, as in fairlearn; K groups are the combinations of
their levels. Everything returned is numbers, pandas tables and files; torch is not needed, and
nothing of fairclip is imported.
"""

if __name__ == "metrics":
    raise ImportError("This folder is installed as `fairclip.metrics`: import it by that name.")

from ._assess import audit
from ._audit import Audit
from ._audit_counts import audit_counts
from ._cell_counts import CellCounts
from ._checks import Check, check
from ._exceptions import MetricsWarning
from ._flags import (
    flag_capped_less_accurate,
    flag_idle_cap,
    flag_levelling_down,
    flag_trivial,
)
from ._pareto import pareto_front
from ._plots import (
    plot_by_group,
    plot_calibration,
    plot_changes,
    plot_fronts,
    plot_roc,
    plot_stages,
    plot_telemetry,
    plot_tradeoff,
    to_svg,
)
from ._read import read_predictions, read_table
from ._report import (
    Notes,
    Picture,
    Report,
    Section,
    Table,
    format_number,
    model_card,
    neutralise_formulas,
    read_thresholds,
    report_schema,
    responsible_use,
    restore_formulas,
)
from ._seeds import over_seeds
from ._summary import summary
from ._tradeoff import Tradeoff, tradeoff

__all__ = [
    "Audit",
    "CellCounts",
    "Check",
    "MetricsWarning",
    "Notes",
    "Picture",
    "Report",
    "Section",
    "Table",
    "Tradeoff",
    "audit",
    "audit_counts",
    "check",
    "flag_capped_less_accurate",
    "flag_idle_cap",
    "flag_levelling_down",
    "flag_trivial",
    "format_number",
    "model_card",
    "neutralise_formulas",
    "over_seeds",
    "pareto_front",
    "plot_by_group",
    "plot_calibration",
    "plot_changes",
    "plot_fronts",
    "plot_roc",
    "plot_stages",
    "plot_telemetry",
    "plot_tradeoff",
    "read_predictions",
    "read_table",
    "read_thresholds",
    "report_schema",
    "responsible_use",
    "restore_formulas",
    "summary",
    "to_svg",
    "tradeoff",
]
