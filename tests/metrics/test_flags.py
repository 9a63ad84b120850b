import numpy as np
import pandas as pd
import pytest

from fairclip.metrics import (
    flag_capped_less_accurate,
    flag_idle_cap,
    flag_levelling_down,
    flag_trivial,
)


@pytest.mark.parametrize(
    ("balanced_accuracy", "selection_rate", "base_rate", "n_flags"),
    [
        (0.8, 0.25, 0.25, 0),
        (0.54, 0.25, 0.25, 1),
        (0.8, 0.12, 0.25, 1),
        (0.8, 0.51, 0.25, 1),
        (0.5, 0.0, 0.25, 2),
        (np.nan, np.nan, 0.25, 0),
    ],
)
def test_trivial_classifiers(
    balanced_accuracy: float, selection_rate: float, base_rate: float, n_flags: int
) -> None:
    assert len(flag_trivial(balanced_accuracy, selection_rate, base_rate)) == n_flags


@pytest.mark.parametrize(
    ("after", "is_flagged"),
    [
        ([0.80, 0.80], True),  # the high group fell, the low one stayed
        ([0.80, 0.75], True),  # both fell
        ([0.90, 0.88], False),  # the low group rose
        ([0.88, 0.86], False),  # the low group rose by more than the high one fell
        ([0.84, 0.81], True),  # mostly by lowering
        ([0.80, 0.60], False),  # the gap grew
        ([0.90, np.nan], False),
    ],
)
def test_levelling_down(after: list[float], is_flagged: bool) -> None:
    groups = ["sex=m", "sex=f"]
    before = pd.Series([0.9, 0.8], index=groups)
    found = flag_levelling_down(before, pd.Series(after, index=groups)[::-1], "tpr")
    assert bool(found) == is_flagged


def test_levelling_down_says_by_how_much() -> None:
    before, after = pd.Series({"m": 0.9, "f": 0.8}), pd.Series({"m": 0.75, "f": 0.7})
    assert flag_levelling_down(before, after, "accuracy") == [
        "The model levels down: the gap in accuracy went from 0.100 to 0.050, m fell by 0.150, "
        "f fell by 0.100."
    ]


@pytest.mark.parametrize(("share", "is_flagged"), [(0.0, True), (0.5, False), (np.nan, False)])
def test_idle_cap(share: float, is_flagged: bool) -> None:
    assert bool(flag_idle_cap(share)) == is_flagged


@pytest.mark.parametrize(
    ("factors", "is_flagged"),
    [([0.5, 1.0], True), ([1.0, 0.5], False), ([1.0, 1.0], False), ([0.5, 0.5], False)],
)
def test_capped_groups_that_are_less_accurate(factors: list[float], is_flagged: bool) -> None:
    groups = ["sex=male", "sex=female"]
    accuracy = pd.Series([0.92, 0.81], index=groups[::-1])
    found = flag_capped_less_accurate(pd.Series(factors, index=groups), accuracy)
    assert bool(found) == is_flagged
    assert not found or "sex=male (mean of their accuracies 0.810; the others 0.920)" in found[0]
