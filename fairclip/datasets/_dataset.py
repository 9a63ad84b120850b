"""What every loader returns."""

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One table with a binary target, N rows.

    Args:
        name: The function's name without ``load_``, or ``make_`` where it is synthetic.
        X: The features, the sensitive columns among them as in fairlearn's data sets;
            ``X.drop(columns=list(sensitive_features))`` trains without them.
        y: The target, 0 or 1, never missing.
        sensitive_features: The sensitive columns, as words; missing values stay missing.
        target: The target's name in the source, also ``y.name``.
        favourable: The value of ``y`` that the person in the row would prefer, 0 or 1;
            1 in synthetic tables.
        description: What a row is, what ``y`` says, and what was left out of ``X``.
        source: Who published the data, and where.
        licence: On what terms.

    Shape:
        - ``X``: ``(N, n_features)``. ``y``: ``(N,)`` int64. ``sensitive_features``: ``(N, n)``.
          All three share the index 0 .. N - 1.

    Example:
        >>> from fairclip.datasets import load_german
        >>> german = load_german()
        >>> german.X.shape, german.target, german.favourable
        ((1000, 19), 'good_credit', 1)
    """

    name: str
    X: pd.DataFrame = field(repr=False)
    y: pd.Series = field(repr=False)
    sensitive_features: pd.DataFrame = field(repr=False)
    target: str
    favourable: int
    description: str = field(repr=False)
    source: str
    licence: str
