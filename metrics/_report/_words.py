"""What a figure counts, and names and numbers as a reader says them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

import pandas as pd

# metric: (title, what it is a share of, what happened to the share)
_SHARES = {
    "accuracy": ("Accuracy", "rows", "were predicted right"),
    "base_rate": ("Base rate", "rows", "have label {label}"),
    "selection_rate": ("Selection rate", "rows", "were predicted {label}"),
    "tpr": ("True positive rate", "rows with label {label}", "were predicted {label}"),
    "fpr": ("False positive rate", "rows with {others}", "were predicted {label}"),
    "fnr": ("False negative rate", "rows with label {label}", "were not predicted {label}"),
    "precision": ("Precision", "rows predicted {label}", "have label {label}"),
}
_PAIRS = (
    "AUC",
    "pairs of a row with label {label} and a row with {others}",
    "have the higher score on the first",
)
# metric: (title, what it is)
_VALUES = {
    "balanced_accuracy": (
        "Balanced accuracy",
        "the mean over the labels of the share predicted right",
    ),
    "macro_precision": ("Macro precision", "the mean of the labels' precisions"),
    "macro_f1": ("Macro F1", "the mean over the labels of the harmonic mean of precision and tpr"),
    "auc": ("AUC", "the mean over the labels of the share of pairs in the right order"),
    "brier": ("Brier score", "the mean squared distance between score and label; 0 is best"),
    "log_loss": ("Log loss", "the mean of minus the logarithm of the label's score; 0 is best"),
    "ece": (
        "Calibration error",
        "the mean distance between score and observed share over ten bins; 0 is best, and chance "
        "alone raises it where rows are few",
    ),
    "mean_true": ("Mean truth", "in units of y"),
    "mean_pred": ("Mean prediction", "in units of y"),
    "mae": ("Mean absolute error", "how far predictions are from the truth, in units of y"),
    "rmse": ("Root mean squared error", "as mae, with more weight on large errors"),
    "bias": ("Bias", "the mean of prediction minus truth, in units of y"),
    "r2": ("R2", "1 is best; 0 is no better than the mean of the truth"),
}
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Figure:
    """How a figure is said: as a share "of 1,000 rows ...", or as a value with its meaning."""

    title: str
    is_share: bool
    counts: str  # what a share is of; what a value is
    did: str = ""

    def level(self, value: float) -> str:
        """Return the figure: "620" of 1,000, or "0.774"."""
        return per_thousand(value) if self.is_share else number(value)

    def distance(self, value: float) -> str:
        """Return how far apart two values are, without sign and unit."""
        return number(abs(100 * value), 1) if self.is_share else number(abs(value))

    @property
    def unit(self) -> str:
        """Return the unit of `distance`, with a space before it."""
        return " points" if self.is_share else ""


def figure_of(metric: str, settings: Mapping[str, Any]) -> Figure:
    """Return the words for a figure; ``tpr[c]`` is of label c; unknown names stay as they are."""
    labels = settings["labels"]
    for of in labels:  # of several labels, a gap may be in how often one is predicted for another
        for label in labels:
            if metric == f"P[{label} | y={of}]":
                return Figure(metric, True, f"rows with label {named(of)}", _predicted(label))
    name, _, of_label = metric.partition("[")
    favourable = of_label.removesuffix("]") or settings["favourable"]
    is_binary = len(labels) == 2
    shares = _SHARES | ({"auc": _PAIRS} if is_binary else {})
    if name in shares and (favourable is not None or name == "accuracy"):
        others = f"label {named(labels[0])}" if is_binary else "another label"
        words = {"label": named(favourable), "others": others}
        title, of, did = (part.format(**words) for part in shares[name])
        return Figure(title if _names(title, metric) else f"{title} ({metric})", True, of, did)
    title, meaning = _VALUES.get(metric, (metric, "as its function defines it"))
    return Figure(title, False, meaning if _names(title, metric) else f"{metric}: {meaning}")


def named(name: object) -> str:
    """Return a user's word for a sentence: on one line, not too long, quoted if it has a comma."""
    text = " ".join(str(name).split())
    if len(text) > _LONGEST_NAME:  # intersections differ at the end, too
        text = f"{text[: _LONGEST_NAME // 2]}…{text[-_LONGEST_NAME // 2 :]}"
    return f"“{text}”" if "," in text else text


def listed(names: Sequence[object], longest: int = 3) -> str:
    """Return names as a list in a sentence, and how many are left out."""
    parts = [named(name) for name in names[:longest]]
    if len(names) > longest:
        parts.append(f"{len(names) - longest:,} more")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def counted(n: int, what: str) -> str:
    """Return "1 group" or "2 groups"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def per_thousand(share: float) -> str:
    """Return how many of 1,000; a share that is not 0 or 1 is not rounded to it."""
    if isnan(share):
        return "n/a"
    if 0 < share < 0.0005:
        return "fewer than 1"
    if 0.9995 <= share < 1:
        return "more than 999"
    return f"{1000 * share:,.0f}"


def number(value: float, decimals: int = 3) -> str:
    """Return a value in about four digits; what is not 0 is not printed as 0."""
    if not isfinite(value):
        return "n/a" if isnan(value) else "infinity"
    if 0 < abs(value) < 0.5 * 10**-decimals:
        return f"{value:.1g}"
    for limit, fewer in ((1000, 0), (100, 1), (10, 2)):
        if abs(value) >= limit:
            return f"{value:,.{min(fewer, decimals)}f}"
    return f"{value:.{decimals}f}"


def row(frame: pd.DataFrame, key: Any) -> "pd.Series[Any]":
    """Return one row of a table by its name, or names."""
    found: pd.Series[Any] = frame.loc[key]
    return found


def _predicted(label: object) -> str:
    return f"were predicted {named(label)}"


def _names(title: str, metric: str) -> bool:
    return metric.replace("_", " ").lower() in title.lower()
