"""The settings that `audit`, `audit_counts` and `tradeoff` share."""

from dataclasses import dataclass
from numbers import Integral, Real


@dataclass(frozen=True, slots=True)
class Options:
    """Checked settings; `audit` says what they mean."""

    reference: str | None
    confidence: float
    n_boot: int
    min_group_size: int
    random_state: int

    def __post_init__(self) -> None:
        if not isinstance(self.confidence, Real):
            raise TypeError(f"`confidence` must be a number, got {self.confidence!r}.")
        for name in ("n_boot", "min_group_size", "random_state"):
            if not isinstance(getattr(self, name), Integral):
                raise TypeError(f"`{name}` must be a whole number, got {getattr(self, name)!r}.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"`confidence` must be between 0 and 1, got {self.confidence}.")
        if self.n_boot < 1:
            raise ValueError(f"`n_boot` must be at least 1, got {self.n_boot}.")
        for name in ("min_group_size", "random_state"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
