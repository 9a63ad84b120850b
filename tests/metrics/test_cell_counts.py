"""Counts are additive: however the rows come, the audit is that of the rows."""

import pickle
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.metrics import Audit, CellCounts, audit, audit_counts
from tests.metrics._inputs import HOSTILE_NAMES, Sample, samples, table_sample

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*sensitive feature:fairclip.metrics.MetricsWarning"
)

TABLES = ("by_group", "cells", "intervals", "disparities", "gaps", "worst")


def _assert_same(found: Audit, expected: Audit) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))
    assert found.warnings == expected.warnings
    assert found.settings["n_unknown"] == expected.settings["n_unknown"]


def _counted(sample: Sample, rows: Any = slice(None)) -> CellCounts:
    return CellCounts().update(
        sample.y_true[rows], sample.y_pred[rows], sensitive_features=sample.features.iloc[rows]
    )


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples(), st.lists(st.integers(0, 60), max_size=4), st.randoms(use_true_random=False))
def test_batches_and_shards_in_any_order_make_the_audit_of_the_rows(
    sample: Sample, cuts: list[int], random: Any
) -> None:
    if len(set(sample.y_true)) < 2:
        sample.y_true[0] = 1 - sample.y_true[0]
    edges = sorted({0, len(sample.y_true), *(cut for cut in cuts if cut < len(sample.y_true))})
    parts = [_counted(sample, slice(*edge)) for edge in pairwise(edges)]
    random.shuffle(parts)
    merged = CellCounts()
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))  # as it comes from a worker
    expected = audit(sample.y_true, sample.y_pred, sensitive_features=sample.features, n_boot=99)
    _assert_same(audit_counts(merged, n_boot=99), expected)


FEATURES = {
    "names": pd.Series([HOSTILE_NAMES[i % 8] for i in range(400)]),
    "numbers": pd.Series([0, 1, 10**15, 7] * 100),
    "floats": pd.Series([0.5, 1.0, np.nan, 2.0] * 100),
    "booleans": pd.Series([True, False] * 200),
    "booleans and none": pd.Series([True, False, None, True] * 100, dtype=object),
    "categories": pd.Series(["a", "b", None, "d"] * 100, dtype="category"),
    "dates": pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02", "NaT", "2025-01-01"] * 100)),
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("way", ["rows", "parquet"])
def test_every_type_of_column_keeps_its_levels(tmp_path: Path, name: str, way: str) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {name: FEATURES[name], "y": rng.integers(0, 2, 400), "p": rng.integers(0, 2, 400)}
    )
    if way == "rows":
        counts = CellCounts()
        for part in (frame[:2], frame[2:9], frame[9:]):
            counts.update(part["y"], part["p"], sensitive_features=part[[name]])
    else:
        path = tmp_path / "a.parquet"
        frame.to_parquet(path)
        counts = CellCounts.read(path, y_true="y", y_pred="p", sensitive_features=[name])
    expected = audit(frame["y"], frame["p"], sensitive_features=frame[[name]], n_boot=99)
    found = audit_counts(counts, n_boot=99)
    assert list(map(str, found.by_group.index)) == list(map(str, expected.by_group.index))
    np.testing.assert_array_equal(found.by_group, expected.by_group)
    assert found.settings["n_unknown"] == frame[name].isna().sum()


def test_labels_of_several_types_are_one_label() -> None:
    counts = CellCounts()
    for true, false in ((True, False), (1, 0), (1.0, 0.0), (np.int8(1), np.int8(0))):
        counts.update([true, false], [true, true], sensitive_features=["a", "a"])
    frame = counts.to_frame()
    assert frame["n"].tolist() == [4, 4]
    assert audit_counts(frame, n_boot=9).settings["labels"] == [0, 1]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA])
def test_what_is_missing_is_one_cell_however_often_it_comes(missing: Any) -> None:
    counts = CellCounts()
    for _ in range(3):
        counts.update([1, 1], [1, 1], sensitive_features=pd.Series([missing, "a"], dtype=object))
        counts.update([1], [1], sensitive_features=pd.Series([float("nan")]))
    assert counts.to_frame()["n"].tolist() == [6, 3]


def test_a_group_by_of_duckdb_over_parquet_is_the_audit_of_the_rows(tmp_path: Path) -> None:
    sample = table_sample()
    frame = sample.features.assign(y=sample.y_true, y_hat=sample.y_pred)
    frame.loc[:9, "sex"] = None
    for i, shard in enumerate((frame[:1500], frame[1500:])):
        shard.to_parquet(tmp_path / f"{i}.parquet")
    counts = duckdb.execute(
        f"""SELECT sex, race, y AS y_true, y_hat AS y_pred, COUNT(*) AS n
        FROM '{tmp_path}/*.parquet' GROUP BY ALL"""
    ).df()
    expected = audit(
        frame["y"], frame["y_hat"], sensitive_features=frame[["sex", "race"]], n_boot=99
    )
    _assert_same(audit_counts(counts, n_boot=99), expected)
    columns: dict[str, Any] = {
        "y_true": "y",
        "y_pred": "y_hat",
        "sensitive_features": ["sex", "race"],
    }
    read = [CellCounts.read(path, **columns) for path in sorted(tmp_path.glob("*.parquet"))]
    _assert_same(audit_counts(read[0].merge(read[1]), n_boot=99), expected)


def test_other_columns_than_before_are_refused() -> None:
    counts = CellCounts().update([1], [0], sensitive_features={"sex": ["f"]})
    with pytest.raises(ValueError, match=r"must have the columns \['sex'\] as before"):
        counts.update([1], [0], sensitive_features={"race": ["a"]})
    other = CellCounts().update([1], [0], sensitive_features={"race": ["a"]})
    with pytest.raises(ValueError, match="as before"):
        counts.merge(other)
    assert counts.merge(CellCounts()).to_frame()["n"].sum() == 1


def test_a_column_of_too_many_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("fairclip.metrics._cell_counts"), "_MAX_CELLS", 100)
    scores = np.arange(101) / 101
    with pytest.raises(ValueError, match="more than 100 different cells: `y_pred` has 101 values"):
        CellCounts().update(np.arange(101) % 2, scores, sensitive_features=["a"] * 101)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "features", "message"),
    [
        ([1, None], [0, 0], ["a", "b"], "`y_true` has 1 missing"),
        ([1, 0], [0, np.nan], ["a", "b"], "`y_pred` has 1 missing"),
        ([1, 0], [0], ["a", "b"], "`y_pred` must have one value for each of 2"),
        ([1, 0], [0, 1], ["a"], "`sensitive_features` must have one value for each of 2"),
    ],
)
def test_bad_rows_are_refused(y_true: Any, y_pred: Any, features: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellCounts().update(y_true, y_pred, sensitive_features=features)
