from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.metrics import MetricsWarning, audit, pareto_front, summary, tradeoff
from tests.metrics._inputs import Sample, samples, table_sample
from tests.metrics._properties import assert_brackets, at

paired: Any = import_module("fairclip.metrics._paired")
rates: Any = import_module("fairclip.metrics._rates")
rows_of: Any = import_module("fairclip.metrics._rows").encode_rows


@settings(derandomize=True, deadline=None, max_examples=15)
@given(samples())
def test_changes_are_differences_of_audits(sample: Sample) -> None:
    other = np.roll(sample.y_pred, 1)
    found = tradeoff(
        {"unclipped": sample.y_pred, "cap": other},
        sample.y_true,
        sensitive_features=sample.features,
        y_scores={"unclipped": sample.y_score, "cap": sample.y_score**2},
        n_boot=1,
    )
    changes = found.changes
    np.testing.assert_allclose(
        changes["change"], changes["candidate"] - changes["baseline"], atol=1e-12
    )
    assert_brackets(changes, "change")
    alone = audit(
        sample.y_true,
        other,
        sensitive_features=sample.features,
        y_score=sample.y_score**2,
        n_boot=1,
    )
    pd.testing.assert_frame_equal(found.audits["cap"].intervals, alone.intervals)
    expected = summary(sample.y_true, other, sensitive_features=sample.features)
    assert found.table["worst_cell"]["cap"] == expected["worst_cell"]
    assert found.table["accuracy"]["cap"] == expected["accuracy"]


def test_a_change_worked_by_hand() -> None:
    # 10 rows with y = 1; 3 gained, 1 lost. Agresti and Min add half a row to each of four cells.
    y = np.ones(10, dtype=np.int64)
    before = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    after = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0])
    found = tradeoff({"unclipped": before, "cap": after}, y, sensitive_features=["a"] * 10)
    row = at(found.changes, "cap", "sensitive_feature_0=a", "tpr")
    half = 1.959963984540054 * np.sqrt(3 + 1 + 1 - 2**2 / 12) / 12
    assert row["change"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == pytest.approx((2 / 12 - half, 2 / 12 + half))
    assert np.isnan(at(found.changes, "cap", "overall", "fpr")["change"])


@pytest.mark.parametrize(("n", "gained", "lost"), [(30, 0.1, 0.03), (200, 0.02, 0.02), (60, 0, 0)])
def test_paired_changes_cover(n: int, gained: float, lost: float) -> None:
    rng = np.random.default_rng(0)
    cells = rng.multinomial(n, [gained, lost, 0.5, 0.5 - gained - lost], size=4000)
    counts = np.zeros((len(cells), 2, 2, 2), dtype=np.int64)
    counts[:, 1] = cells[:, [3, 0, 1, 2]].reshape(-1, 2, 2)
    found = paired.rate_change(rates.Tally(counts, counts, counts), "tpr", 1.96)
    covered = (found.low <= gained - lost) & (gained - lost <= found.high)
    assert np.mean(covered) > 0.93


def test_auc_changes_cover() -> None:
    rng = np.random.default_rng(0)
    n_simulations, size = 800, 80
    y = np.tile(np.arange(size) % 2, n_simulations)
    shared = rng.normal(y, 1.0)
    before, after = (shared + rng.normal(0, 0.5, len(y)) for _ in range(2))  # the same AUC
    rows = rows_of(y, {}, {"simulation": np.repeat(np.arange(n_simulations), size)})
    found = paired.score_changes(rows, before, after, 0.95, 1, rng)["auc"]
    assert 0.92 < np.mean((found.low[1:] <= 0) & (found.high[1:] >= 0)) < 0.98


def test_equal_predictions_change_by_0_within_a_narrow_interval() -> None:
    sample = table_sample()
    found = tradeoff(
        {"unclipped": sample.y_pred, "same": sample.y_pred.copy()},
        sample.y_true,
        sensitive_features=sample.features,
    )
    rows = found.changes.xs("overall", level="group")
    assert (rows["change"] == 0).all()
    assert (rows["high"].dropna() < 0.005).all()
    assert rows.loc["same"].loc[["accuracy", "tpr", "fpr"], "high"].notna().all()


def test_flags_of_every_arm_are_said_once_and_those_of_one_with_its_name() -> None:
    sample = table_sample()
    found = tradeoff(
        {"unclipped": sample.y_pred, "nobody": np.zeros_like(sample.y_pred)},
        sample.y_true,
        sensitive_features=sample.features,
        min_group_size=40,
    )
    assert len([m for m in found.warnings if "Small cells" in m]) == 1
    assert any(m.startswith("nobody: The model is close to trivial") for m in found.warnings)
    assert any(
        m.startswith("nobody: The model levels down: the gap in tpr") for m in found.warnings
    )
    assert not any(m.startswith("unclipped:") for m in found.warnings)


def test_rows_without_a_group_are_announced() -> None:
    arms = {"unclipped": [0, 1], "cap": [1, 1]}
    with pytest.warns(MetricsWarning, match="1 of 2 rows"):
        tradeoff(arms, [0, 1], sensitive_features=["a", None])


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ({"a": [0, 1]}, {}, "`baseline` must be one of"),
        (
            {"unclipped": [0, 1]},
            {"y_scores": {"b": [0.1, 0.2]}},
            "`y_scores` must be of",
        ),
        ({"unclipped": [0, 1], "b": [0]}, {}, r"`y_preds\['b'\]` must have one value"),
        ({"unclipped": [0, 1], "b": [0, 3]}, {}, r"`y_preds\['b'\]` must hold values"),
    ],
)
def test_bad_input_is_refused(arms: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tradeoff(arms, [0, 1], sensitive_features=["a", "b"], **options)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, float("nan")])] * 2), min_size=1, max_size=8
    )
)
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    found = pareto_front(pd.DataFrame(points, columns=["x", "y"]), ["x", "y"])
    for point, in_front in zip(points, found, strict=True):
        dominated = any(
            other[0] >= point[0] and other[1] >= point[1] and other != point for other in points
        )
        assert in_front == (not dominated and not np.isnan(point).any())
