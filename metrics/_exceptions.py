"""The warning of this package, which must not import fairclip's."""


class MetricsWarning(UserWarning):
    """Rows or figures were left out of an audit; the message says which and why."""
