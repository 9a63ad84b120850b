"""The reports of an audit and of a comparison."""

from ._audit_page import audit_report
from ._tradeoff_page import tradeoff_report

__all__ = ["audit_report", "tradeoff_report"]
