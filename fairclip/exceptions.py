"""The warnings of fairclip; errors are ValueError, TypeError and RuntimeError."""

__all__ = ["FairclipWarning"]


class FairclipWarning(UserWarning):
    """Something was ignored, replaced or cannot be measured as asked."""
