"""Asserts named after the property, and the oracles that they take."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame

from fairclip.metrics import Audit
from tests.metrics._inputs import Sample

Oracle: TypeAlias = Callable[..., Any]  # (y_true, y_pred or y_score, sample_weight) -> number


def at(frame: pd.DataFrame, *key: str) -> Any:
    """Return the row with this index, untyped: pandas' stubs allow it any scalar."""
    index: Any = key if len(key) > 1 else key[0]
    return frame.loc[index]


def assert_figures_are(
    found: Audit,
    oracles: Mapping[str, Oracle],
    sample: Sample,
    weight: Any,
    second: Any = None,
    *,
    scale: float = 1.0,
) -> None:
    """Every figure of all rows and of each group is MetricFrame's, NaN where that is NaN.

    `second` is what the oracles take second, None for the predictions; `scale` is that of the
    figures, 1 of rates. An oracle is not asked where no row has a weight: there all is NaN.
    """
    oracle = MetricFrame(
        metrics={name: _nan_without_weight(metric) for name, metric in oracles.items()},
        y_true=sample.y_true,
        y_pred=sample.y_pred if second is None else second,
        sensitive_features=sample.features,
        sample_params={name: {"sample_weight": weight} for name in oracles},
    )
    pd.testing.assert_index_equal(found.by_group.index, oracle.by_group.index, exact=False)
    expected = oracle.by_group[list(oracles)].astype(np.float64)
    figures = found.by_group[list(oracles)].astype(np.float64)
    np.testing.assert_allclose(figures, expected, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(
        found.overall[list(oracles)].to_numpy(np.float64),
        oracle.overall[list(oracles)].to_numpy(np.float64),
        rtol=1e-12,
        atol=1e-12 * scale,
    )


def _nan_without_weight(metric: Oracle) -> Oracle:
    def asked(y_true: Any, second: Any, sample_weight: Any) -> Any:
        if not np.any(sample_weight):
            return np.nan
        return metric(y_true, second, sample_weight=sample_weight)

    return asked


def assert_same_audits(
    found: Audit, expected: Audit, *, but: tuple[str, ...] = (), exactly: bool = True
) -> None:
    """All tables are equal, and all settings but the named ones."""
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(other, value, check_exact=exactly, rtol=1e-6, atol=1e-9)
        elif isinstance(value, pd.Series):
            pd.testing.assert_series_equal(other, value, check_exact=exactly, rtol=1e-6, atol=1e-9)
        elif name == "settings":
            assert _without(other, but) == _without(value, but)
        else:
            assert other == value, name


def _without(settings: dict[str, Any], but: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in but}


def assert_brackets(frame: pd.DataFrame, value: str = "value") -> None:
    """Every interval that is defined holds its estimate."""
    slack = 1e-12 * np.maximum(1, frame[value].abs())
    inside = (frame["low"] <= frame[value] + slack) & (frame[value] <= frame["high"] + slack)
    assert (inside | frame["low"].isna()).all(), frame[~inside]
