import gzip
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairclip.metrics import neutralise_formulas, read_predictions, read_table

FRAME = pd.DataFrame({"sex": ["f", "m"], "y": [0, 1], "p": [0, 1]})


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.parquet", "P.CSV"])
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    path = write(FRAME, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(path), FRAME)
    found = read_predictions(path)
    assert found["sex"].dtype == "category"
    pd.testing.assert_frame_equal(found, FRAME, check_dtype=False, check_categorical=False)


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_named_columns_come_alone_and_in_order(tmp_path: Path, name: str) -> None:
    path = write(FRAME.assign(note=["a, b", 'c "d"']), tmp_path / name)
    assert list(read_predictions(path, ["p", "sex"])) == ["p", "sex"]
    with pytest.raises(ValueError, match="no column `race`; there are sex, y, p, note"):
        read_predictions(path, ["p", "race"])


def test_parquet_decodes_the_named_columns_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(FRAME, tmp_path / "p.parquet")
    asked = []
    batches = pq.ParquetFile.iter_batches

    def ask(file: Any, n_rows: int, columns: list[str]) -> Any:
        asked.append(columns)
        return batches(file, n_rows, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", ask)
    read_predictions(path, ["p", "sex"])
    assert asked == [["p", "sex"]]


def test_a_stored_index_is_a_column_where_it_is_named(tmp_path: Path) -> None:
    path = write(FRAME.set_index("sex"), tmp_path / "p.parquet")
    assert list(read_predictions(path, ["y", "sex"])["sex"]) == ["f", "m"]
    pd.testing.assert_frame_equal(read_table(path), FRAME.set_index("sex"))


def test_row_groups_with_other_dictionaries_are_one_column(tmp_path: Path) -> None:
    parts = [[None, None], ["a", "b"], ["b", "c"], ["c", None]]
    with pq.ParquetWriter(tmp_path / "p.parquet", pa.schema([("g", pa.string())])) as writer:
        for part in parts:
            writer.write_table(pa.table({"g": pa.array(part, pa.string())}))
    found = read_predictions(tmp_path / "p.parquet")["g"]
    assert found.dtype == "category"
    assert found[2:7].tolist() == ["a", "b", "b", "c", "c"]
    assert found.isna().sum() == 3


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_levels_of_text_are_in_order_whatever_the_rows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("fairclip.metrics._read_csv._CELLS_AT_ONCE", 1)  # 1,000 rows at once
    monkeypatch.setattr("fairclip.metrics._read_parquet._ROWS_AT_ONCE", 1_000)
    levels = ["c"] * 900 + ["b"] * 900 + ["d", "a"] * 100
    path = write(pd.DataFrame({"g": levels}), tmp_path / name)
    found = read_predictions(path)["g"]
    assert list(found.cat.categories) == ["a", "b", "c", "d"]
    assert found.tolist() == levels


def test_categories_keep_the_order_that_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairclip.metrics._read_parquet._ROWS_AT_ONCE", 1_000)
    bands = pd.CategoricalDtype(["young", "middle", "old"], ordered=True)
    frame = pd.DataFrame({"age": ["old"] * 1_500 + ["young"] * 1_500}).astype({"age": bands})
    frame.to_parquet(tmp_path / "p.parquet", row_group_size=1_000)
    found = read_predictions(tmp_path / "p.parquet")["age"]
    assert list(found.cat.categories) == ["young", "middle", "old"]
    assert found.tolist() == frame["age"].tolist()


def test_strings_that_were_neutralised_come_back(tmp_path: Path) -> None:
    words = ["=1+2", "'=1+2", "''-", "-1", "'a", "a=b", "'", "@", "\tx"]
    frame = pd.DataFrame({"=g": words, "n": range(-4, 5)})
    safe = neutralise_formulas(frame)
    assert not any(
        text.startswith(("=", "+", "-", "@", "\t"))
        for text in [*map(str, safe.columns), *safe.iloc[:, 0]]
    )
    safe.to_csv(tmp_path / "p.csv", index=False)
    frame.to_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        found = read_predictions(tmp_path / name, ["=g", "n"])
        assert found.to_dict("list") == frame.to_dict("list")
    pd.testing.assert_frame_equal(read_table(tmp_path / "p.csv"), safe)


def test_a_column_with_text_at_its_end_is_text_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairclip.metrics._read_csv._CELLS_AT_ONCE", 1)  # 1,000 rows at once
    n = 3_000
    frame = pd.DataFrame(
        {
            "code": ["01"] * (n - 1) + ["x"],
            "late": [""] * (n - 1) + ["x"],
            "number": [1] * (n - 1) + [""],
            "flag": ["True"] * (n - 1) + [""],
        }
    )
    for read in (read_predictions, read_table):
        found = read(write(frame, tmp_path / "p.csv"))
        assert set(found["code"]) == {"01", "x"}
        assert found["late"].isna().sum() == n - 1
        assert found["number"].dtype == float
        assert set(found["flag"].dropna()) == {True}
    assert read_table(tmp_path / "p.csv")["late"].dtype == "str"


def test_blank_lines_are_no_rows_and_quoted_line_ends_end_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\n"a",b\r\n1,"x\ny, z"\n\n  \n2,"""q"""\n\n')
    found = read_table(tmp_path / "a.csv")
    assert found.to_dict("list") == {"a": [1, 2], "b": ["x\ny, z", '"q"']}


def test_spaces_around_column_names_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sex, y ,,p\nf,1,2,0\n", encoding="utf-8-sig")
    assert list(read_table(tmp_path / "a.csv")) == ["sex", "y", "Unnamed: 2", "p"]


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("a.csv", "a,b\n1,2\n")
    return sink.getvalue()


def damaged_parquet() -> bytes:
    rng = np.random.default_rng(0)
    content = bytearray(parquet_bytes(pa.table({"a": rng.random(5_000)})))
    content[4:1_004] = bytes(range(250)) * 4
    return bytes(content)


PARQUET = parquet_bytes(pa.table({"a": [1, 2]}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "it is empty"),
        ("a.csv", b"\n \n", "it has no rows"),
        ("a.csv", b"sex,y,p\n", "it has no rows"),
        ("a.csv", b'a,b\n1,2\n"3,4', "line 3 has 1 fields and the header 2"),
        ("a.csv", b'a,b\n1,"2\n' + b"3,4\n" * 50_000, "a quote is not closed"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 fields and the header 2"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "line 3 has 3 fields and the header 2"),
        ("a.csv", b"a,b\n1,2,3\n4,5,6\n", "line 2 has 3 fields and the header 2"),
        ("a.csv", b"a,b\n1,2,\n", "line 2 has 3 fields and the header 2"),
        ("a.csv", b"\xff\xfe\x00\x01,b\n\xff,2\n", "UTF-16; save it as UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), "bytes of value 0"),
        ("a.csv", b"a,b\n1,2\n\0\0\n", "bytes of value 0"),
        ("a.csv", b"job, y,y\na,1,1\n", "has the column `y` more than once; rename one"),
        ("a.csv", b"a;b\n1;2\n", "separated by semicolons; save it with commas"),
        ("a.csv", b"a\tb\n1\t2\n", "separated by tabs; save it with commas"),
        ("a.csv", "job,y\ncafé,1\n".encode("latin-1"), "not UTF-8; save it as UTF-8"),
        ("a.csv", b"%PDF-1.7\n%\xe2\xe3", "it is a PDF"),
        ("a.csv", zipped(), "it is a zip archive, as Excel files are"),
        ("a.csv", b"\n<!DOCTYPE html>\n<html>", "it is HTML or XML"),
        ("a.csv", pickle.dumps(FRAME), "it is a pickle, and unpickling runs code"),
        ("a.csv", json.dumps([{"y": 1}]).encode(), "it is JSON"),
        ("a.csv", PARQUET, "it is Parquet; let its name end in .parquet"),
        ("a.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "it is gzip; let its name end in .csv.gz"),
        ("a.csv.gz", b"a,b\n1,2\n", "it is not gzip"),
        (
            "a.csv.gz",
            gzip.compress(b"a,b\n" + b"1,2\n" * 99, mtime=0)[:-20],
            "the end of its gzip data",
        ),
        (
            "a.csv.gz",
            gzip.compress(b"a,b\n" + b"1,2\n" * 99, mtime=0)[:-8] + b"12345678",
            "damaged",
        ),
        ("a.csv.gz", gzip.compress(pickle.dumps(FRAME), mtime=0), "it is a pickle"),
        ("a.parquet", b"not parquet", "it is not Parquet, or damaged"),
        ("a.parquet", b"", "it is not Parquet, or damaged"),
        ("a.parquet", PARQUET[:-9], "it is not Parquet, or damaged"),
        ("a.parquet", damaged_parquet(), "it is not Parquet, or damaged"),
        (
            "a.parquet",
            parquet_bytes(pa.table([[1], [2]], names=["y", "y"])),
            "has the column `y` more than once; rename one",
        ),
        ("a.parquet", parquet_bytes(pa.table({"y": pa.array([], pa.int64())})), "has no rows"),
        ("a.pkl", pickle.dumps(FRAME), "must end in .csv, .csv.gz or .parquet"),
    ],
)
@pytest.mark.parametrize("read", [read_predictions, read_table])
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path,
    read: Callable[[Path], pd.DataFrame],
    name: str,
    content: bytes,
    message: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as found:
        read(path)
    assert str(found.value).startswith(f"Cannot read {path}: ")
    assert "\n" not in str(found.value)


def test_nested_columns_are_refused_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(
        parquet_bytes(pa.table({"y": [1], "l": [[1, 2]], "s": [{"a": 1}]}))
    )
    assert read_predictions(tmp_path / "a.parquet", ["y"])["y"].tolist() == [1]
    for name in ("l", "s"):
        with pytest.raises(ValueError, match=f"column `{name}` holds .*; name one of plain values"):
            read_predictions(tmp_path / "a.parquet", [name])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ValueError, match="must be a file"):
            read_predictions(path)


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"fairclip\[parquet\]"):
        read_predictions(tmp_path / "a.parquet")


# Reads each file in turn; prints the error, the seconds and the growth of the peak memory in MB.
MEASURE = """
import json, resource, sys, time
import pyarrow.parquet
from fairclip.metrics import read_predictions
for path in sys.argv[1:]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        read_predictions(path)
    except ValueError as error:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([str(error), time.perf_counter() - start, grown / 1024]))
"""


def test_two_gigabytes_that_are_no_table_are_refused_at_once(tmp_path: Path) -> None:
    size = 2 * 2**30
    expected = {
        "zeros.csv": "bytes of value 0",
        "late_zeros.csv": "bytes of value 0",
        "zeros.parquet": "it is not Parquet",
        "line.csv.gz": "a line of more than 4 MB",
        "rows.csv.gz": "more than 300 times its size",
        "zeros.csv.gz": "bytes of value 0",
    }
    (tmp_path / "late_zeros.csv").write_bytes(b"y,p,sex\n" + b"1,0,f\n" * 100_000)
    for name in ("zeros.csv", "late_zeros.csv", "zeros.parquet"):
        with (tmp_path / name).open("ab") as file:
            file.truncate(size)
    n_blocks = size // 2**20 // 16  # gzip members of 16 MB, one after the other, are one stream
    for name, start, unit in (
        ("line.csv.gz", b"", b"abcdefgh"),
        ("rows.csv.gz", b"y,p\n", b"1,0\n1,0\n"),
        ("zeros.csv.gz", b"", bytes(8)),
    ):
        block = gzip.compress(unit * 2**21)
        (tmp_path / name).write_bytes(gzip.compress(start, mtime=0) + block * n_blocks)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in expected)],
        capture_output=True,
        text=True,
        check=True,
    )
    for line, message in zip(done.stdout.splitlines(), expected.values(), strict=True):
        error, seconds, grown = json.loads(line)
        assert message in error
        assert seconds < 10  # 0.0 to 1.5; a busy machine may take longer
        assert grown < 100, error
