"""What was measured, as rows of numbers: all that a check may look at."""

import pandas as pd


class Measurements:
    """Numbers by quantity and place, in the order in which they were measured."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, float, str]] = []

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def add(self, quantity: str, where: str, value: float, note: str = "") -> None:
        """Keep a number; NaN with a note is what could not be measured, and why."""
        self._rows.append((quantity, where, value, note))

    def of(self, quantity: str) -> dict[str, float]:
        """Return a quantity by place, without what could not be measured."""
        return {
            where: value for name, where, value, note in self._rows if name == quantity and not note
        }

    @property
    def notes(self) -> list[str]:
        """What could not be measured, and why."""
        return [f"{name} ({where}): {note}" for name, where, _, note in self._rows if note]

    def to_frame(self) -> pd.DataFrame:
        """Return the columns quantity, where, value and note."""
        return pd.DataFrame(self._rows, columns=["quantity", "where", "value", "note"])
