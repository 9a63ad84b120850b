"""One fault, with what shows it and what to change."""

from dataclasses import dataclass
from typing import Literal

Fault = Literal[
    "non-finite values",
    "input scale",
    "initial weights",
    "spectral radius",
    "exploding through time",
    "vanishing through time",
    "unbounded activations",
    "outlier rows",
    "exploding gradients",
    "vanishing gradients",
    "large update",
    "learning rate",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault in a model, its data or its training.

    Args:
        fault: What is wrong, one of a fixed list of words.
        where: The layer, parameter, rows or steps.
        evidence: What was measured, in a sentence with numbers.
        value: The number that crossed the threshold; dimensionless unless ``evidence`` says.
        threshold: What it was compared with.
        remedy: What to change, in a sentence.

    Example:
        >>> from fairclip.diagnosis import Finding
        >>> print(Finding("input scale", "fc", "Feature 0 reaches 90.", 90.0, 10.0, "Scale it."))
        input scale (fc): Feature 0 reaches 90. Threshold: 10. Remedy: Scale it.
    """

    fault: Fault
    where: str
    evidence: str
    value: float
    threshold: float
    remedy: str

    def __str__(self) -> str:
        """Return all of it in one line."""
        return (
            f"{self.fault} ({self.where}): {self.evidence} "
            f"Threshold: {self.threshold:.4g}. Remedy: {self.remedy}"
        )
