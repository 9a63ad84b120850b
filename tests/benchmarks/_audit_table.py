"""The results of the audit benchmark: a CSV file, and the README's table of it."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.benchmarks._audit_arms import REPLICATES

PATH = Path(__file__).with_name("audit_cost.csv")

HEAD = "| what | rows | time | peak memory |"
_SHOWN = {
    ("count_and_audit", "pass"): "`CellCounts.read`: one pass over a Parquet file",
    ("count_and_audit", "audit"): "`audit_counts` after it: every figure, interval and p",
    ("group_by_and_audit", "pass"): "the same counts by DuckDB's `GROUP BY`",
    ("replicate_cells", "replicates"): f"{REPLICATES:,} draws of the cells, eight rates each time",
    ("audit_labels", "audit"): "`audit` of a table in memory",
    ("audit_scores", "audit"): "`audit` of a table in memory, with scores",
    ("metric_frame", "audit"): "MetricFrame, the same eight rates, no intervals",
    ("audit_few", "audit"): "`audit`",
    ("audit_few", "replicates"): f"{REPLICATES:,} draws of the cells",
    ("metric_frame_few", "audit"): "MetricFrame with `n_boot={n}`",
}


@dataclass(frozen=True)
class Row:
    """What a part of an arm takes: the median, least and most of the runs.

    ``peak_mb`` is the most memory that the process of the arm held, Python and imports included.
    ``n_replicates`` is 0 where none are drawn.
    """

    arm: str
    part: str
    n_rows: int
    n_groups: int
    n_replicates: int
    seconds: float
    least: float
    most: float
    peak_mb: float
    n_runs: int
    versions: str


def read(path: Path = PATH) -> list[Row]:
    """Return the rows of a file."""
    with path.open(newline="") as file:
        return [
            Row(**{f.name: f.type(row[f.name]) for f in fields(Row) if callable(f.type)})
            for row in csv.DictReader(file)
        ]


def write(rows: Sequence[Row], path: Path = PATH) -> None:
    """Write the rows to a file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(row).items()
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values})


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, and what a replicate costs either way."""
    yield HEAD
    yield "| --- | ---: | ---: | ---: |"
    by_name = {(row.arm, row.part): row for row in rows}
    for name, text in _SHOWN.items():
        if row := by_name.get(name):
            what = text.format(n=row.n_replicates)
            yield f"| {what} | {row.n_rows:,} | {_time(row.seconds)} | {row.peak_mb:,.0f} MB |"
    yield ""
    ours, theirs = by_name["audit_few", "replicates"], by_name["metric_frame_few", "audit"]
    each = ours.seconds / ours.n_replicates, theirs.seconds / theirs.n_replicates
    yield (
        f"{rows[0].n_groups} groups. A draw of {ours.n_rows:,} rows and its figures take "
        f"{_time(each[0])}, in MetricFrame {_time(each[1])}."
    )
    yield f"Measured with {rows[0].versions}."


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
