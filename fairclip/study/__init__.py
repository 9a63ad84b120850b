"""The study: comparisons over many settings in, one page of verdicts out."""

__all__: list[str] = []
