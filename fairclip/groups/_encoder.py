"""Sensitive features to group codes. Shapes: N rows, K groups."""

import warnings
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairclip.exceptions import FairclipWarning
from fairclip.groups._levels import as_frame, as_levels

_Unknown = Literal["ignore", "own", "error"]
_MAX_LABELS = 50
_MISSING_AS_TEXT = ["nan", "NaN", "None", "NaT", "<NA>"]


class GroupEncoder:
    """Turn sensitive features, and the label if asked, into one group code per row.

    Several columns make intersections; only combinations that ``fit`` sees become groups. Values
    are compared as text, with 1.0 as "1", and groups are numbered in the order of their texts,
    column by column, the label last: the same rows give the same codes in any order.

    A row is *unknown* where a sensitive value is missing (None, NaN, NA), or where ``fit`` did not
    see its combination of values. With a label, a row whose label is missing or new to
    ``transform`` is unknown too, and gets -1 under "own" as well, since it has no stratum.

    Args:
        with_label: Make cells, group × label, the groups. ``fit`` and ``transform`` then need
            ``y``, and ignore it otherwise.
        unknown: What becomes of unknown rows. "ignore": the code -1, with a warning. "own": a group
            of their own (one for each label), whose every level is called "unknown"; it exists
            even if ``fit`` saw no such row. "error": a ValueError.

    Attributes:
        names_: ``list[str]``, K names such as "sex=female, race=black, y=1".
        counts_: ``(K,)`` int64, the rows of each group in ``fit``.
        strata_: ``(K,)`` int64, the number of each group's label (0 is the first in the order of
            their texts), 0 everywhere without labels.
        frame_: DataFrame of K rows, the levels of each group as text, a column for each sensitive
            feature and, with labels, one called "y".

    Raises:
        ValueError: If an argument or a column cannot be used, with the remedy.
        RuntimeError: If ``transform`` is called before ``fit``.

    Example:
        >>> import pandas as pd
        >>> from fairclip.groups import GroupEncoder
        >>> people = pd.DataFrame({"sex": ["f", "m", "f", "m"], "race": ["b", "w", "w", "w"]})
        >>> encoder = GroupEncoder(with_label=True).fit(people, y=[1, 0, 1, 0])
        >>> encoder.names_
        ['sex=f, race=b, y=1', 'sex=f, race=w, y=1', 'sex=m, race=w, y=0']
        >>> encoder.counts_, encoder.strata_
        (array([1, 1, 2]), array([1, 1, 0]))
        >>> encoder.transform(people, y=[1, 0, 1, 0])
        array([0, 2, 1, 2])
    """

    names_: list[str]
    counts_: NDArray[np.int64]
    strata_: NDArray[np.int64]
    frame_: pd.DataFrame

    def __init__(self, with_label: bool = False, unknown: _Unknown = "ignore") -> None:
        if unknown not in get_args(_Unknown):
            raise ValueError(f"`unknown` must be 'ignore', 'own' or 'error', got {unknown!r}.")
        self.with_label = with_label
        self.unknown = unknown

    def fit(self, sensitive_features: Any, y: Any = None) -> Self:
        """Learn the groups.

        Args:
            sensitive_features: Series, DataFrame, array or list: one column or several, N rows.
            y: The labels ``(N,)``, at most 50 different ones; only with ``with_label``.

        Returns:
            The encoder itself.
        """
        features, _ = as_frame(sensitive_features, "sensitive_feature")
        levels = self._levels(features, y)
        _check_features(levels[features.columns.tolist()])
        if self.with_label:
            _check_labels(levels["y"])
        kinds = levels.dropna()
        if self.unknown == "own":
            kinds = pd.concat([kinds, _as_own(levels, features.columns.tolist())])
        elif kinds.empty:
            raise ValueError("Every row of `sensitive_features` has a missing value.")

        self.frame_ = kinds.drop_duplicates().sort_values(
            levels.columns.tolist(), ignore_index=True
        )
        self.names_ = [
            ", ".join(f"{column}={level}" for column, level in zip(self.frame_, row, strict=True))
            for row in self.frame_.itertuples(index=False)
        ]
        codes = self._codes(levels)
        self.counts_ = np.bincount(codes[codes >= 0], minlength=len(self.frame_))
        self.strata_ = np.zeros(len(self.frame_), dtype=np.int64)
        if self.with_label:
            self.strata_[:] = pd.factorize(self.frame_["y"], sort=True)[0]
        return self

    def transform(self, sensitive_features: Any, y: Any = None) -> NDArray[np.int64]:
        """Return the code of every row.

        Args:
            sensitive_features: The columns that ``fit`` saw, found by name, or by position where
                they have no names.
            y: The labels ``(N,)``; only with ``with_label``.

        Returns:
            Codes ``(N,)`` int64 in 0 .. K - 1, or -1 for unknown.
        """
        if not hasattr(self, "frame_"):
            raise RuntimeError("`transform` was called before `fit`.")
        features, named = as_frame(sensitive_features, "sensitive_feature")
        fitted = self._features
        if named and set(features) != set(fitted):
            raise ValueError(f"`fit` saw the columns {fitted}, got {list(features)}.")
        if features.shape[1] != len(fitted):
            raise ValueError(f"`fit` saw {len(fitted)} column(s), got {features.shape[1]}.")
        features = features[fitted] if named else features.set_axis(fitted, axis=1)
        codes = self._codes(self._levels(features, y))
        n_unknown = int((codes < 0).sum())
        if n_unknown:
            warnings.warn(
                f"{n_unknown:,} of {len(codes):,} rows have a missing value or a combination that "
                "`fit` did not see: their code is -1 (unknown). Their gradients are kept and never "
                'capped; `unknown="own"` makes them a group.',
                FairclipWarning,
                stacklevel=2,
            )
        return codes

    def __repr__(self) -> str:
        return f"GroupEncoder(with_label={self.with_label}, unknown={self.unknown!r})"

    @property
    def _features(self) -> list[str]:
        return self.frame_.columns.tolist()[: -1 if self.with_label else None]

    def _levels(self, features: pd.DataFrame, y: Any) -> pd.DataFrame:
        levels = as_levels(features)
        if not self.with_label:
            return levels
        if y is None:
            raise ValueError("`y` is needed: the encoder was made with `with_label=True`.")
        labels, _ = as_frame(y, "y")
        if labels.shape != (len(levels), 1):
            raise ValueError(
                f"`y` must have one value for each of the {len(levels)} rows of "
                f"`sensitive_features`, got the shape {np.shape(y)}."
            )
        if "y" in levels:
            raise ValueError('A sensitive column is called "y", as the label is; rename it.')
        return levels.assign(y=as_levels(labels).iloc[:, 0])

    def _codes(self, levels: pd.DataFrame) -> NDArray[np.int64]:
        index = pd.MultiIndex.from_frame(self.frame_)
        codes = index.get_indexer(pd.MultiIndex.from_frame(levels))
        unknown = codes < 0
        if not unknown.any() or self.unknown == "ignore":
            return codes
        if self.unknown == "error":
            row = int(unknown.argmax())
            values = ", ".join(f"{k}={v}" for k, v in levels.iloc[row].items())
            raise ValueError(
                f"Row {row} has a missing value or a combination that `fit` did not see: {values}."
            )
        own = _as_own(levels[unknown], self._features)
        codes[unknown] = index.get_indexer(pd.MultiIndex.from_frame(own))
        return codes


def _as_own(levels: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    """Return the rows as members of the group of unknown rows, or of one for each label."""
    return levels.assign(**dict.fromkeys(features, "unknown"))


def _check_features(levels: pd.DataFrame) -> None:
    if not levels.size:
        raise ValueError("`sensitive_features` has no rows or no columns.")
    for column in levels:
        if levels[column].nunique() == len(levels) > 1:
            raise ValueError(
                f"The column {column!r} has another value in each of its {len(levels)} rows: it "
                "tells rows apart, not groups. Drop it, or cut it into ranges."
            )
        # numpy makes the text "nan" of a missing value among texts, and `astype(str)` does.
        texts = levels[column][levels[column].isin(_MISSING_AS_TEXT)]
        if len(texts):
            warnings.warn(
                f"The column {column!r} has the level {texts.iloc[0]!r}, which makes a group of "
                f"{len(texts):,} rows: if it means that the value is missing, pass None instead.",
                FairclipWarning,
                stacklevel=3,
            )


def _check_labels(labels: "pd.Series[Any]") -> None:
    if labels.isna().any():
        raise ValueError("`y` has missing values; drop those rows.")
    if labels.nunique() > _MAX_LABELS:
        raise ValueError(
            f"`y` has {labels.nunique():,} different values, more than {_MAX_LABELS}: a regression "
            "target makes no cells. Use `with_label=False`, or cut it into ranges."
        )
