"""Loggers of a trace: which steps they see, with what numbers, and JSON lines on disk."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import torch

from fairclip import FairClipper, Trace
from fairclip.clipping import Norm, Update
from fairclip.trace import JsonLines, StepRecord
from tests.clipper._inputs import COUNTS, make_batches, mlp, row_losses

Logged = list[tuple[int, dict[str, float]]]


class Training:
    """A run with a clipper, and an update mode that adds to a step after it was recorded."""

    record: StepRecord

    def __init__(self, *, amended: bool = False, device: str = "cpu") -> None:
        self.model = mlp().to(device)
        self.device = device
        self.clipper = FairClipper(self.model, clip=Norm(1.0), group_counts=COUNTS)
        self.trace = self.clipper.trace
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        if amended:
            Update(max_norm=0.1).attach(self.optimizer, trace=self.trace)

    def run(self, n_steps: int, seed: int = 0) -> None:
        for inputs, targets, codes in make_batches(n_steps, seed=seed):
            batch = inputs.to(self.device), targets.to(self.device), codes
            with self.clipper.watch(codes):
                row_losses(self.model, batch).mean().backward()
            self.record = self.clipper.clip_grad_()
            self.optimizer.step()
            self.optimizer.zero_grad()


def collector() -> tuple[Logged, Any]:
    logged: Logged = []
    return logged, lambda numbers, step: logged.append((step, numbers))


def rows_of(trace: Trace) -> dict[int, dict[str, float]]:
    """Every kept step's numbers, by the frame."""
    frame = trace.to_frame().drop(columns="first_nonfinite").set_index("step")
    return {
        int(str(step)): {str(name): float(x) for name, x in row.items() if not math.isnan(x)}
        for step, row in frame.astype(float).to_dict("index").items()
    }


@pytest.mark.parametrize("amended", [False, True])
@pytest.mark.parametrize("n_steps", [1, 7, 8])
def test_each_logger_gets_its_steps_in_their_last_form(amended: bool, n_steps: int) -> None:
    training = Training(amended=amended)
    (often, log_often), (seldom, log_seldom) = collector(), collector()
    training.trace.log_to(log_seldom, every=3)
    with training.trace.log_to(log_often, every=1):
        training.run(n_steps)
    rows = rows_of(training.trace)
    assert often == [(step, rows[step]) for step in range(n_steps)]
    assert all(("update_norm" in numbers) == amended for _, numbers in often)
    due = [step for step in range(0, n_steps, 3) if not amended or step < n_steps - 1]
    assert seldom == [(step, rows[step]) for step in due]  # the last one may still be added to


@pytest.mark.parametrize("amended", [False, True])
def test_a_logger_sees_the_steps_from_its_beginning_to_its_end(amended: bool) -> None:
    training = Training(amended=amended)
    logged, log = collector()
    training.run(3)
    handle = training.trace.log_to(log, every=2)
    training.run(4)
    handle.remove()
    handle.remove()
    training.run(4)
    assert [step for step, _ in logged] == [4, 6]


def test_modes_without_groups_are_logged() -> None:
    trace = Trace()
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    Norm(1.0).attach(optimizer, trace=trace)
    logged, log = collector()
    with trace.log_to(log, every=2):
        for _ in range(5):
            weight.grad = torch.ones(2)
            optimizer.step()
    assert [step for step, _ in logged] == [0, 2, 4]
    assert logged[0][1]["threshold[Norm]"] == 1


@pytest.mark.parametrize("amended", [False, True])
def test_a_resumed_run_goes_on_counting(amended: bool) -> None:
    training = Training(amended=amended)
    training.run(3)
    resumed = Training(amended=amended)
    logged, log = collector()
    with resumed.trace.log_to(log, every=2):
        resumed.run(1)
        first = rows_of(resumed.trace)[0]
        resumed.clipper.load_state_dict(training.clipper.state_dict())
        resumed.run(4)
    assert [step for step, _ in logged] == [0, 4, 6]
    assert logged[0][1] == first


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trace: pickle.loads(pickle.dumps(trace))])
def test_a_logger_is_not_copied_or_saved(copied: Callable[[Trace], Trace]) -> None:
    training = Training()
    logged, log = collector()  # a function without a name, which no pickle takes
    training.trace.log_to(log, every=1)
    training.run(2)
    other = copied(training.trace)
    assert other.latest() == logged[-1][1]
    other.append(replace(training.record, clip=None))
    assert len(logged) == 2
    training.run(1)
    assert [step for step, _ in logged] == [0, 1, 2]


def test_only_logged_steps_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read one waits for the device."""
    latest = Mock(side_effect=Trace.latest)
    monkeypatch.setattr(Trace, "latest", lambda trace: latest(trace))
    training = Training(amended=True)
    with training.trace.log_to(collector()[1], every=4):
        training.run(9)
    assert latest.call_count == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_only_logged_steps_wait_for_a_cuda_device() -> None:
    training = Training(device="cuda")
    training.run(1)
    logged, log = collector()
    training.trace.log_to(log, every=100)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(98):
            training.trace.append(training.record)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert logged == []
    training.run(2)
    ((step, numbers),) = logged
    assert numbers == pytest.approx(rows_of(training.trace)[step])
    assert step == 100


def test_what_a_logger_raises_comes_out_and_the_run_can_go_on() -> None:
    training = Training()

    def fail(numbers: dict[str, float], step: int) -> None:
        raise OSError("disk full")

    handle = training.trace.log_to(fail, every=2)
    with pytest.raises(OSError, match="disk full"):
        training.run(1)
    handle.remove()
    training.optimizer.zero_grad()
    training.run(3)
    assert len(training.trace) == 4


def test_numbers_that_are_not_measured_are_left_out() -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS, measure_every=2)
    logged, log = collector()
    clipper.trace.log_to(log, every=1)
    for batch in make_batches(4):
        clipper.weigh(row_losses(model, batch), batch[2]).mean().backward()
        clipper.clip_grad_()
        model.zero_grad()
    measured = ["norm_uncapped" in numbers for _, numbers in logged]
    assert measured == [False, True, False, True]
    assert not any(math.isnan(x) for _, numbers in logged for x in numbers.values())


class Run:
    """As a W&B run: ``log(data, step=None, commit=None)``, whose steps never go back."""

    def __init__(self) -> None:
        self.history: dict[int, dict[str, float]] = {}

    def log(
        self, data: dict[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        assert step is not None
        assert commit is None
        assert step >= max(self.history, default=0)
        self.history.setdefault(step, {}).update(data)


@pytest.mark.parametrize("amended", [False, True])
def test_a_run_of_wandb_takes_them_beside_the_user_s_own(amended: bool) -> None:
    training, run = Training(amended=amended), Run()
    with training.trace.log_to(run.log, every=2):
        for step in range(5):
            training.run(1)
            run.log({"loss": 1.0}, step=step)
    assert [step for step, data in run.history.items() if "factor[0]" in data] == [0, 2, 4]


# ---------------------------------------------------------------------------------- JSON lines


def lines_of(path: Path) -> list[dict[str, float]]:
    """Read strictly: ``NaN`` and ``Infinity`` are not JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_lines_are_the_frame_s_rows_and_are_there_at_once(tmp_path: Path) -> None:
    training, path = Training(), tmp_path / "steps.jsonl"
    with JsonLines(path) as lines, training.trace.log_to(lines, every=2):
        training.run(5)
        rows = rows_of(training.trace)
        assert lines_of(path) == [{"step": step} | rows[step] for step in (0, 2, 4)]
    with JsonLines(path) as lines:  # a run that goes on
        lines({"loss": 0.5}, 6)
    frame = pd.read_json(path, lines=True)
    assert frame["step"].tolist() == [0, 2, 4, 6]
    assert frame["loss"].notna().tolist() == [False, False, False, True]


def test_what_is_not_finite_is_null_and_names_are_any_text(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    numbers = {"a": math.inf, "b": -math.inf, "c": math.nan, 'n["é\n, y=1]': 1e-300}
    with JsonLines(str(path)) as lines:
        lines(numbers, 0)
    expected = {"step": 0, "a": None, "b": None, "c": None, 'n["é\n, y=1]': 1e-300}
    assert lines_of(path) == [expected]


def test_a_line_that_was_cut_short_is_dropped_at_any_place(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    with JsonLines(path) as lines:
        lines({"é": 1.0}, 0)
        first = path.read_bytes()
        lines({"é": 2.0}, 1)
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        with JsonLines(path) as lines:
            lines({}, 2)
        n_whole = (end >= len(first)) + (end == len(whole))
        kept = [{"step": 0, "é": 1}, {"step": 1, "é": 2}][:n_whole]
        assert lines_of(path) == [*kept, {"step": 2}]


@pytest.mark.parametrize("text", ["notes", "a\nb", '{"stop": 1}', '[{"step": 1}]'])
def test_another_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"`path` must hold lines of JSON, got .*notes\.txt"):
        JsonLines(path)
    assert path.read_text() == text


# ------------------------------------------------------------------------------- what is rejected


def test_rejected_arguments() -> None:
    trace = Trace()
    with pytest.raises(TypeError, match=r"`log` must be called as log\(numbers, step\), got list"):
        trace.log_to([])  # type: ignore[arg-type]
    for every in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="`every` must be a number of steps, at least 1, got"):
            trace.log_to(print, every=every)  # type: ignore[arg-type]
