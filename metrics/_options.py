"""The settings that `audit`, `audit_counts` and `tradeoff` share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Checked settings; `audit` says what they mean."""

    reference: str | None
    confidence: float
    n_boot: int
    min_group_size: int
    random_state: int

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"`confidence` must be between 0 and 1, got {self.confidence}.")
        if self.n_boot < 1:
            raise ValueError(f"`n_boot` must be at least 1, got {self.n_boot}.")
        if self.min_group_size < 0:
            raise ValueError(f"`min_group_size` must be 0 or more, got {self.min_group_size}.")
