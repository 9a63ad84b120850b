"""The turns of the arms, the CSV file, the table and the verdicts, on made-up figures."""

from dataclasses import replace
from pathlib import Path

from tests.benchmarks._interleave import Turns, interleave
from tests.benchmarks._step_profile import STAGES, profile
from tests.benchmarks._step_results import Row, Setting, merge, read
from tests.benchmarks._step_table import table
from tests.benchmarks._step_targets import verdicts

ROW = Row(
    device="cpu",
    model="CNN",
    n_groups=8,
    minority="40",
    arm="exact",
    batch_size=64,
    plain_ms=40.0,
    wall=1.2,
    wall_q1=1.1,
    wall_q3=1.3,
    cpu=1.25,
    floor=1.1,
    memory=1.2,
    first_memory=2.0,
    n_turns=9,
    note="",
    threads=2,
    versions="torch 2",
)
PLAIN = replace(ROW, arm="plain", wall=1.0, memory=None)


def test_long_turns_are_rare_and_short_calls_are_many_a_turn() -> None:
    calls: list[str] = []
    plain = Turns(lambda: calls.append("plain"), 1, once=0.002, times={})
    lagged = Turns(lambda: calls.append("lagged"), 10, once=0.004, times={})
    slow = Turns(lambda: calls.append("slow"), 1, once=0.1, times={})
    interleave([plain, lagged, slow], budget=4.0, n_rounds=6)
    assert {name: calls.count(name) for name in ("plain", "lagged", "slow")} == {
        "plain": 6 * 5,
        "lagged": 6 * 10,
        "slow": 2,
    }
    assert list(slow.times) == [0, 4]
    assert len(slow.ratios(plain, "wall")) == 2


def test_the_file_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    failed = replace(ROW, arm="lagged", wall=None, floor=None, note="no, not here")
    merge([PLAIN, ROW, failed], path)
    assert read(path) == [PLAIN, ROW, failed]
    other = [replace(row, model="ResNet-18") for row in (PLAIN, ROW)]
    merge(other, path)
    assert read(path) == [PLAIN, ROW, failed, *other]
    merge([PLAIN, replace(ROW, wall=1.5)], path)  # all arms of a setting took turns
    assert [row.wall for row in read(path)] == [1.0, 1.5, 1.0, 1.2]


def test_the_table_shows_a_gap_for_what_did_not_run() -> None:
    lines = list(table([PLAIN, ROW, replace(ROW, arm="TorchJD", wall=None)]))
    assert lines[2] == "| CNN | 8 | 40 % | 40 ms | 1.20 | – | – | – | – | – | 1.20 |"
    assert lines[-1] == "Measured with torch 2 on cpu, 2 threads."


def test_the_verdicts_hold_figures_to_the_targets() -> None:
    rows = [PLAIN, ROW, replace(ROW, arm="TorchJD", wall=4.0), replace(ROW, arm="lagged", wall=1.1)]
    assert [(line.split()[0], line.split(": ")[1]) for line in verdicts(rows)] == [
        ("met", "exact 1.20 <= 1.30"),
        ("met", "exact, of the floor 1.09 <= 1.10"),
        ("MISSED", "peak memory 1.20 <= 1.15"),
        ("met", "exact, of a third of TorchJD 0.90 <= 1.00"),
        ("MISSED", "lagged 1.10 <= 1.05"),
    ]
    growth = [replace(ROW, n_groups=2, wall=1.0, floor=None), replace(ROW, n_groups=16, wall=1.4)]
    assert any("exact, of that at K=2 1.40" in line for line in verdicts(growth))


def test_the_profile_has_a_line_for_every_stage() -> None:
    head, *lines = profile(Setting("cpu", "MLP 100-64-64-2", 2, "20"), 2)
    assert "K=2" in head
    found = {line[:36].strip(): float(line.split()[-1]) for line in lines}
    assert found.keys() == {
        "plain",
        "exact",
        "exact, 1st step",
        "exact, 2nd, 4th and 8th step",
        *STAGES,
    }
    assert all(0 < part < found["exact"] for stage, part in found.items() if stage in STAGES)


def test_the_readme_shows_the_table_of_the_csv() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "\n".join(table(read())) in readme
