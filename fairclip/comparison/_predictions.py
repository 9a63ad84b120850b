"""What a model predicts for one part of the rows, and the figures of it. Shapes: M rows."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairclip.comparison._fit import Fit
from fairclip.comparison._outcome import RATES, Figures
from fairclip.comparison._table import Table
from fairclip.metrics import audit, summary


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions side by side.

    Attributes:
        y_true: 0 or 1, ``(M,)``.
        y_pred: 0 or 1, ``(M,)``.
        y_score: Probabilities of class 1, ``(M,)``; None for an arm without scores.
        sensitive: The sensitive columns, ``(M, ...)``.
    """

    y_true: NDArray[np.int64]
    y_pred: NDArray[np.int64]
    y_score: NDArray[np.float64] | None
    sensitive: pd.DataFrame

    @classmethod
    def of(cls, table: Table, fit: Fit, rows: NDArray[np.int64]) -> "Predictions":
        """Return what ``fit`` predicts for ``rows`` of ``table``."""
        return cls(
            y_true=table.y[rows],
            y_pred=fit.y_pred[rows],
            y_score=None if fit.scores is None else fit.scores[rows],
            sensitive=table.sensitive.iloc[rows].reset_index(drop=True),
        )

    def summary(self) -> Figures:
        """Return the metrics of all rows."""
        return summary(
            self.y_true, self.y_pred, sensitive_features=self.sensitive, y_score=self.y_score
        )

    def matched(self) -> Figures:
        """Return the metrics with as many rows predicted 1 as have the label 1, by the score.

        So every arm selects the same share, and what differs is whom. There are none without
        scores.
        """
        if self.y_score is None:
            return {}
        n_selected = int(self.y_true.sum())
        cut = np.sort(self.y_score)[-n_selected]
        return replace(self, y_pred=(self.y_score >= cut).astype(np.int64)).summary()

    def rates(self) -> list[Figures]:
        """Return rows and rates of each group that has rows, one record each."""
        found = audit(
            self.y_true,
            self.y_pred,
            sensitive_features=self.sensitive,
            y_score=self.y_score,
            n_boot=1,
        )
        rates = found.by_group[found.by_group["n"] > 0].reindex(columns=["n", *RATES])
        names = found.intervals.index.unique("group").drop("overall")
        records = rates.set_axis(names).reset_index().to_dict("records")
        return [{str(name): value for name, value in record.items()} for record in records]

    def to_frame(self) -> pd.DataFrame:
        """Return one row each, as in the files of predictions."""
        frame = pd.DataFrame({"y_true": self.y_true, "y_pred": self.y_pred})
        if self.y_score is not None:
            frame["y_score"] = self.y_score
        return frame.join(self.sensitive)
