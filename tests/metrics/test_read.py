import gzip
import sys
from pathlib import Path

import pandas as pd
import pytest

from fairclip.metrics import neutralise_formulas, read_predictions, read_table

FRAME = pd.DataFrame({"sex": ["f", "m"], "y": [0, 1], "p": [0, 1]})


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.parquet", "P.CSV"])
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        FRAME.to_parquet(tmp_path / name)
    else:
        FRAME.to_csv(tmp_path / name, index=False)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / name), FRAME, check_dtype=False)


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
        pd.testing.assert_frame_equal(read_predictions(tmp_path / name), frame)
    pd.testing.assert_frame_equal(read_table(tmp_path / "p.csv"), safe)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "Cannot read .*a.csv"),
        ("a.csv", b"sex,y,p\n", "has no rows"),
        ("a.csv", b'a,b\n1,2\n"3,4', "Cannot read"),
        ("a.csv", b"\xff\xfe\x00\x01,b\n\xff,2\n", "Cannot read"),
        ("a.csv", b"job, y,y\na,1,1\n", "has the column `y` more than once"),
        ("a.csv", b"a;b\n1;2\n", "separated by semicolons; save it with commas"),
        ("a.csv", "job,y\ncafé,1\n".encode("latin-1"), "not UTF-8; save it as UTF-8"),
        ("a.csv.gz", b"not gzip", "Cannot read"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 99)[:-20], "Cannot read"),
        ("a.parquet", b"not parquet", "Cannot read"),
        ("a.xlsx", b"", "must end in .csv, .csv.gz or .parquet"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a file"):
        read_predictions(tmp_path / "none.csv")


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"fairclip\[parquet\]"):
        read_predictions(tmp_path / "a.parquet")


def test_spaces_around_column_names_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sex, y ,,p\nf,1,2,0\n", encoding="utf-8-sig")
    assert list(read_table(tmp_path / "a.csv")) == ["sex", "y", "Unnamed: 2", "p"]
