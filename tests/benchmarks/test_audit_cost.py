"""The audit benchmark's rows, its CSV file and its table, on few rows and made-up figures."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmarks._audit_arms import ARMS, write_data
from tests.benchmarks._audit_table import HEAD, Row, read, table, write

ROW = Row(
    arm="audit_few",
    part="replicates",
    n_rows=20_000,
    n_groups=16,
    n_replicates=10_000,
    seconds=0.5,
    least=0.4,
    most=0.6,
    peak_mb=150.0,
    n_runs=3,
    versions="fairclip 1 on 2 cores",
)
THEIRS = replace(ROW, arm="metric_frame_few", part="audit", n_replicates=100, seconds=50.0)


def test_the_data_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_data(tmp_path / name, 5_000, 16)
    frame, again = (pd.read_parquet(tmp_path / name) for name in ("a", "b"))
    pd.testing.assert_frame_equal(frame, again)
    assert list(frame) == ["sex", "region", "y", "y_hat", "score"]
    assert len(frame.groupby(["sex", "region"])) == 16
    assert ((frame["score"] > 0.5) == frame["y_hat"]).all()


@pytest.mark.parametrize("arm", ["count_and_audit", "group_by_and_audit", "audit_scores"])
def test_an_arm_returns_the_seconds_of_its_parts(tmp_path: Path, arm: str) -> None:
    write_data(tmp_path / "a.parquet", 5_000, 4)
    times = json.loads(json.dumps(ARMS[arm](tmp_path / "a.parquet")))
    assert times
    assert all(0 < seconds < 60 for seconds in times.values())


def test_the_file_keeps_the_rows(tmp_path: Path) -> None:
    write([ROW, THEIRS], tmp_path / "a.csv")
    assert read(tmp_path / "a.csv") == [ROW, THEIRS]


def test_the_table_says_what_a_draw_costs() -> None:
    lines = list(table([ROW, THEIRS]))
    assert lines[2:] == [
        "| 10,000 draws of the cells | 20,000 | 500 ms | 150 MB |",
        "| MetricFrame with `n_boot=100` | 20,000 | 50 s | 150 MB |",
        "",
        "16 groups. A draw of 20,000 rows and its figures take 50 µs, in MetricFrame 500 ms.",
        "Measured with fairclip 1 on 2 cores.",
    ]


def test_the_file_has_every_part_that_the_table_shows() -> None:
    lines = list(table(read()))
    assert lines[0] == HEAD
    assert len(lines) == 15


def test_the_readme_shows_the_table_of_the_csv() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "\n".join(table(read())) in readme
