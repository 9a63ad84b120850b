"""What is wrong with the input, and shows only while a comparison runs."""


class RunError(ValueError):
    """Data or settings that training cannot use; any other error of a run is a bug."""
