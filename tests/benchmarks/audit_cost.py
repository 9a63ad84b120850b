"""What an audit costs: time and peak memory, beside fairlearn's MetricFrame.

Run `python -m tests.benchmarks.audit_cost`. It writes its rows to a temporary Parquet file, always
the same: two sensitive columns of text that make 16 groups, labels, predictions and scores. Each
arm runs in a process of its own, in turn with the others; printed are the median, least and most of
the runs, and the most memory that a process held.

count_and_audit     CellCounts.read over the file, then audit_counts
group_by_and_audit  DuckDB's GROUP BY over the file, then audit_counts
replicate_cells     10,000 draws of the counts' cells, and the rates of all rows and each group
audit_labels        audit of the whole table in memory, text as categories
audit_scores        the same with scores
metric_frame        MetricFrame on a million rows with the rates that audit has, no intervals
audit_few           audit of 20,000 rows, and 10,000 draws of their cells
metric_frame_few    MetricFrame on these rows with n_boot=100

MetricFrame's arms, which take minutes, run once.

Reading the table and importing are no part of a time; both are part of the memory. The results go
to audit_cost.csv.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tqdm import tqdm

from tests.benchmarks._audit_arms import ARMS, FEWER, REPLICATES, SMALL, Times, write_data
from tests.benchmarks._audit_table import Row, read, table, write

_ONCE = ("metric_frame", "metric_frame_few")
_N_ROWS = {"metric_frame": FEWER, "audit_few": SMALL, "metric_frame_few": SMALL}
_PACKAGES = ("fairclip", "numpy", "pandas", "pyarrow", "duckdb", "fairlearn")
_PEAK = "peak_mb"


def run(arguments: argparse.Namespace) -> list[Row]:
    """Run the arms in turn and print a line for each part of each."""
    found: dict[str, list[Times]] = {name: [] for name in arguments.arms}
    turns = [
        name
        for turn in range(arguments.runs)
        for name in arguments.arms
        if turn == 0 or name not in _ONCE
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.parquet")
        _child("write_data", path, arguments)
        for name in (bar := tqdm(turns, unit="run")):
            bar.set_description(name)
            found[name].append(_child(name, path, arguments))
    rows = [row for name, times in found.items() for row in _rows(name, times, arguments)]
    for row in rows:
        print(
            f"{row.arm:<20}{row.part:<12}{row.n_rows:>12,} rows{row.seconds:>10.3f} s "
            f"({row.least:.3f}-{row.most:.3f}){row.peak_mb:>8,.0f} MB"
        )
    return rows


def _child(name: str, path: Path, arguments: argparse.Namespace) -> Times:
    """Run one arm in a process of its own; return its times and its peak."""
    options = ["--rows", arguments.rows, "--groups", arguments.groups, "--n-boot", arguments.n_boot]
    command = [sys.executable, "-m", "tests.benchmarks.audit_cost", "--child", name, path, *options]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    times: Times = json.loads(done.stdout)
    return times


def _run_here(name: str, path: Path, arguments: argparse.Namespace) -> Times:
    if name == "write_data":
        write_data(path, arguments.rows, arguments.groups)
        return {}
    times = ARMS[name](path, *([arguments.n_boot] if name == "metric_frame_few" else []))
    # Of this process alone: what started it holds less than an interpreter with pandas does.
    return times | {_PEAK: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _rows(name: str, times: list[Times], arguments: argparse.Namespace) -> Iterator[Row]:
    for part in times[0]:
        if part == _PEAK:
            continue
        seconds = [each[part] for each in times]
        n_replicates = REPLICATES if part == "replicates" else 0
        yield Row(
            arm=name,
            part=part,
            n_rows=min(arguments.rows, _N_ROWS.get(name, arguments.rows)),
            n_groups=arguments.groups,
            n_replicates=arguments.n_boot if name == "metric_frame_few" else n_replicates,
            seconds=median(seconds),
            least=min(seconds),
            most=max(seconds),
            peak_mb=max(each[_PEAK] for each in times),
            n_runs=len(seconds),
            versions=", ".join(f"{package} {version(package)}" for package in _PACKAGES)
            + f" on {os.cpu_count()} cores",
        )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--groups", type=int, default=16, help="an even number")
    parser.add_argument("--n-boot", type=int, default=100, help="draws of MetricFrame")
    parser.add_argument("--runs", type=int, default=3, help="of each arm")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--quick", action="store_true", help="a trial: few rows, few draws, one run, no CSV"
    )
    parser.add_argument("--table", action="store_true", help="print the README's table of the CSV")
    parser.add_argument("--child", nargs=2, metavar=("ARM", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.n_boot, arguments.runs = 100_000, 5, 1
    return arguments


def main() -> None:
    """Measure, or print what was measured."""
    arguments = parse()
    if arguments.table:
        print("\n".join(table(read())))
    elif arguments.child:
        name, path = arguments.child
        print(json.dumps(_run_here(name, Path(path), arguments)))
    else:
        rows = run(arguments)
        if not arguments.quick and arguments.arms == list(ARMS):
            write(rows)


if __name__ == "__main__":
    main()
