"""Files that are read part by part: nothing depends on where a part ends."""

import gzip
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

read_batches: Any = import_module("fairclip.metrics._read").read_batches

N_ROWS = 300_000  # several parts


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "not read": rng.random(N_ROWS),
            "sex": rng.choice(["f", "m"], N_ROWS),
            "age": rng.integers(0, 3, N_ROWS),
            "flag": rng.random(N_ROWS) < 0.5,
        }
    )
    frame.loc[N_ROWS - 5 :, "sex"] = None
    return frame


@pytest.mark.parametrize("rows_of_a_group", [7_000, N_ROWS])
def test_the_parts_of_parquet_make_the_whole(tmp_path: Path, rows_of_a_group: int) -> None:
    frame, path = _frame(), tmp_path / "a.parquet"
    frame.to_parquet(path, row_group_size=rows_of_a_group)
    parts = list(read_batches(path, ["flag", "sex", "age"]))
    assert max(map(len, parts)) < N_ROWS
    assert {str(part["sex"].dtype) for part in parts} == {"category"}
    whole = pd.concat([part.astype({"sex": object}) for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(
        whole, frame[["flag", "sex", "age"]].astype({"sex": object}), check_dtype=False
    )


def test_memory_is_that_of_a_part_in_one_row_group_too(tmp_path: Path) -> None:
    path, n_rows = tmp_path / "a.parquet", 2_000_000
    columns = {name: np.arange(n_rows) % 1000 for name in "abcd"}
    parquet.write_table(pa.table(columns), path, row_group_size=n_rows)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()  # numpy's arrays
    try:
        assert sum(map(len, read_batches(path, list("abcd")))) == n_rows
        peak = pool.max_memory() + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert peak < n_rows * 4 * 8 / 2  # bytes of half of the whole


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_column_of_csv_has_one_type_in_all_parts(tmp_path: Path, name: str) -> None:
    frame, path = _frame(), tmp_path / name
    text = frame.assign(code="01", late=1)
    text.loc[N_ROWS - 1, "code"] = "x"  # text, but only at the end
    text.loc[N_ROWS - 1, "late"] = np.nan
    text.to_csv(path, index=False)
    parts = list(read_batches(path, ["code", "late", "sex", "age", "flag"]))
    assert len(parts) > 1
    for part in parts:
        assert {"01"} <= set(part["code"]) <= {"01", "x"}
        kinds = [part[name].dtype.kind for name in ("late", "age", "flag")]
        assert kinds == ["f", "i", "b"]
    assert sum(part["sex"].isna().sum() for part in parts) == 5
    assert sum(map(len, parts)) == N_ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"sex,y,p\nf,1,1\n", "has no column `race`; there are sex, y, p"),
        ("a.csv", b"race, y,y\na,1,1\n", "has the column `y` more than once"),
        ("a.csv", b"race,y\n", "no rows"),
        ("a.csv", "race,y\ncafé,1\n".encode("latin-1"), "not UTF-8"),
        ("a.csv.gz", gzip.compress(b"race,y\n" + b"1,2\n" * 99, mtime=0)[:-20], "Cannot read"),
        ("a.parquet", b"not parquet", "Cannot read"),
        ("a.xlsx", b"", "must end in .csv, .csv.gz or .parquet"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_batches(tmp_path / name, ["race", "y"]))


def test_a_missing_column_of_parquet_is_named(tmp_path: Path) -> None:
    _frame()[:3].to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column `race`; there are not read, sex, age, flag"):
        next(read_batches(tmp_path / "a.parquet", ["sex", "race"]))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a file"):
        next(read_batches(tmp_path / "none.csv", ["y"]))
