"""The command line, as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from fairclip.cli import app
from tests.comparison._inputs import loans

TINY = ["--seeds=1", "--epochs=1", "--hidden=4", "--quick", "--jobs=1"]
LOANS = ["--target=approved", "--sensitive=region"]


@pytest.fixture(autouse=True)
def _a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # some library of the other tests sets it


def assert_refused(folder: Path, command: list[str], message: str) -> None:
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("edit", "flags", "message"),
    [
        (lambda f: f, ["--target=price", "--sensitive=region"], "no column `price`"),
        (lambda f: f, ["--target=approved", "--sensitive=race"], "no column `race`"),
        (lambda f: f.iloc[:0], LOANS, "has no rows"),
        (lambda _: pd.DataFrame(), LOANS, "loans.csv"),
        (lambda f: f.assign(approved="no"), LOANS, "one class only"),
        (lambda f: f.assign(approved=f["job"]), LOANS, "name the one to predict"),
        (lambda f: f.assign(approved=f["approved"].where(f.index > 1)), LOANS, "missing in 2 rows"),
        (lambda f: f.assign(region=f.index), LOANS, "600 different values in 600 rows"),
        (
            lambda f: f.assign(region=["east"] * 6 + ["west"] * 594),
            LOANS,
            "The cell 'region=east, y=",
        ),
        (lambda f: f, [*LOANS, "--max-ratio=0"], "`max_ratio` must be positive, got 0.0."),
        (lambda f: f, [*LOANS, "--max-ratio=2,-1"], "`max_ratio` must be positive, got -1.0."),
        (lambda f: f, [*LOANS, "--max-ratio=nan"], "`max_ratio` must be positive, got nan."),
        (lambda f: f, [*LOANS, "--reference=region=moon"], "region=moon"),
        (lambda f: f, [*LOANS, "--reference=region=north"], "name a cell and use within='all'"),
        (lambda f: f, [*LOANS, "--jobs=0"], "`jobs` must be at least 1"),
        (lambda f: f, [*LOANS, "--config=missing.toml"], "missing.toml"),
    ],
)
def test_compare_refuses_bad_input(
    tmp_path: Path,
    edit: Callable[[pd.DataFrame], pd.DataFrame],
    flags: list[str],
    message: str,
) -> None:
    data = tmp_path / "loans.csv"
    edit(loans()).to_csv(data, index=False)
    assert_refused(
        tmp_path, ["compare", str(data), f"--out={tmp_path / 'runs' / 'x'}", *flags], message
    )


def test_compare_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.csv"
    assert_refused(tmp_path, ["compare", str(missing), *LOANS], "There is no file")


def test_compare_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    data, out = tmp_path / "loans.csv", tmp_path / "thesis"
    loans().to_csv(data, index=False)
    out.mkdir()
    (out / "chapter1.txt").write_text("irreplaceable")
    command = ["compare", str(data), *LOANS, *TINY, f"--out={out}", "--overwrite"]
    assert_refused(tmp_path, command, "is not a run")


def test_compare_says_in_words_that_training_diverged(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["compare", "german", *TINY, "--lr=1e30", f"--out={tmp_path / 'x'}"]
    )
    assert result.exit_code == 2
    assert "error: `unclipped`, seed 0: training diverged" in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_flags_switch_off_what_the_config_file_switched_on(tmp_path: Path) -> None:
    config, data = tmp_path / "config.toml", tmp_path / "loans.csv"
    loans().to_csv(data, index=False)
    config.write_text("quick = true\nkeep_sensitive = true\nepochs = 1\nseeds = 1\nhidden = 2\n")
    flags = [*LOANS, f"--config={config}", "--no-quick", "--no-keep-sensitive", "--jobs=1"]
    result = CliRunner().invoke(
        app, ["compare", str(data), *flags, f"--out={tmp_path / 'x'}", "--json"]
    )
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout)["settings"]
    assert (settings["quick"], settings["keep_sensitive"]) == (False, False)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_compare_reads_each_kind_of_file(tmp_path: Path, suffix: str) -> None:
    data, out = tmp_path / f"loans.{suffix}", tmp_path / "out"
    frame = loans()
    if suffix == "parquet":
        frame.to_parquet(data)
    else:
        frame.to_csv(data, index=False)
    result = CliRunner().invoke(app, ["compare", str(data), *LOANS, *TINY, f"--out={out}"])
    assert result.exit_code == 0, result.output
    assert str(out / "report.html") in result.stdout
    assert (out / "report.html").exists()
    assert "±" not in result.stdout  # one seed
    assert "±" not in (out / "report.md").read_text()
    table = pd.read_csv(out / "tradeoff.csv").set_index("arm")
    for arm, row in table.iterrows():
        assert re.search(rf"{re.escape(str(arm))} +{row['accuracy_mean']:.3f}", result.stdout)
        cell = f"{row['worst_cell']}, n = {row['worst_cell_n']:.0f} in the mean"
        assert f"worst cell of {arm}: {cell}, worst in 1 of 1 seeds" in result.stdout


def test_compare_prints_json_that_config_reproduces(tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    flags = ["german", *TINY, f"--out={out}", "--json"]
    result = CliRunner().invoke(app, ["compare", *flags])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["settings"]["sensitive"] == ["age_group"]
    config = ["compare", f"--config={out / 'config.toml'}", "--jobs=1", f"--out={again}"]
    assert CliRunner().invoke(app, config).exit_code == 0
    assert (again / "tradeoff.csv").read_bytes() == (out / "tradeoff.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "fairclip",
        "compare",
        "german",
        f"--out={out}",
        "--epochs=500",
    ]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # one ignored is inherited
    process = subprocess.Popen(
        [*command, f"--jobs={jobs}"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, ours)
    while not (tmp_path / "run.partial").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate(timeout=60)
    # Interrupted inside an import that calls exec(), CPython ends by the signal itself: for a
    # shell both are 130.
    assert process.returncode in {130, -signal.SIGINT}
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert not out.exists()


def test_a_bug_in_training_shows_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("fairclip.comparison._task.to_inputs", fail)
    result = CliRunner().invoke(app, ["compare", "german", *TINY, f"--out={tmp_path / 'x'}"])
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


@pytest.mark.parametrize("command", ["compare", "audit"])
def test_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"fairclip {command} " in result.stdout
    assert "Examples" in result.stdout
