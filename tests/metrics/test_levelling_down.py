"""How sure it is that a gap closed by a fall."""

import pandas as pd
import pytest

from fairclip.metrics import flag_levelling_down

BEFORE, AFTER = pd.Series({"a": 0.9, "b": 0.8}), pd.Series({"a": 0.8, "b": 0.8})


@pytest.mark.parametrize(
    ("high", "expected"),
    [
        (
            -0.02,
            "The model levels down: the gap in tpr went from 0.100 to 0.000, a fell by 0.100 ± "
            "0.080, b rose by 0.000.",
        ),
        (
            0.0,
            "The model may level down: the gap in tpr went from 0.100 to 0.000, a fell by 0.100 "
            "± 0.100, b rose by 0.000.",
        ),
        (
            float("nan"),
            "The model may level down: the gap in tpr went from 0.100 to 0.000, a fell "
            "by 0.100, b rose by 0.000.",
        ),
    ],
)
def test_a_fall_that_its_interval_does_not_show_only_may_be_one(high: float, expected: str) -> None:
    highs = pd.Series({"b": 0.3, "a": high})  # matched by name
    assert flag_levelling_down(BEFORE, AFTER, "tpr", change_high=highs) == [expected]
