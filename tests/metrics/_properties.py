"""Asserts named after the property."""

from typing import Any

import numpy as np
import pandas as pd


def at(frame: pd.DataFrame, *key: str) -> Any:
    """Return the row with this index, untyped: pandas' stubs allow it any scalar."""
    index: Any = key if len(key) > 1 else key[0]
    return frame.loc[index]


def assert_equal_where_defined(found: "pd.Series[Any]", oracle: "pd.Series[Any]") -> None:
    """Both series have the same index; where `found` is defined it equals the oracle to 1e-12."""
    pd.testing.assert_index_equal(found.index, oracle.index, exact=False)
    values, expected = found.to_numpy(np.float64), oracle.to_numpy(np.float64)
    defined = ~np.isnan(values)
    np.testing.assert_allclose(values[defined], expected[defined], rtol=0, atol=1e-12)


def assert_brackets(frame: pd.DataFrame, value: str = "value") -> None:
    """Every interval that is defined holds its estimate."""
    inside = (frame["low"] <= frame[value] + 1e-12) & (frame[value] <= frame["high"] + 1e-12)
    assert (inside | frame["low"].isna()).all(), frame[~inside]
