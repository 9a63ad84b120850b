"""Arms that cut the unclipped model's scores at another place, for everyone."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ThresholdArm:
    """The unclipped model with another cut for everyone, chosen on the validation part."""

    name: str
    group_blind: ClassVar[bool] = True
    note: ClassVar[str] = (
        "the unclipped model with the cut of its scores that has the best worst cell on the "
        "validation part, at most 2 points of accuracy below the cut 0.5 there."
    )


@dataclass(frozen=True)
class CutArm:
    """The unclipped model with a given cut for everyone.

    Raises:
        ValueError: If the cut is outside of (0, 1).
    """

    name: str
    cut: float
    group_blind: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.cut < 1:
            raise ValueError(f"the cut must be between 0 and 1, got {self.cut:g}.")

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        return f"the unclipped model, predicting 1 from a score of {self.cut:g} on."
