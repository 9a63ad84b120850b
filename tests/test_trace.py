"""Trace: which steps are kept, what stands in a frame, and that no step waits for the device."""

import copy
import io
import math
import pickle
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairclip.clipping import ClipRecord
from fairclip.trace import StepRecord, Trace
from tests.capping._properties import NoWaiting

NAMES = ("a", "b", "c")


def clip_record(share: float, device: str = "cpu") -> ClipRecord:
    one = torch.ones((), device=device)
    return ClipRecord("norm", one, one, threshold=one / 2, share_clipped=one * share)


def record(step: int = 0, device: str = "cpu", **changes: Any) -> StepRecord:
    """A record whose numbers all differ and tell the step."""

    def numbers(start: float, shape: tuple[int, ...] = (3,)) -> Tensor:
        size = math.prod(shape)
        return (start + step + torch.arange(size) / 8).reshape(shape).to(device)

    layers = changes.get("layers")
    scoped = (3,) if layers is None else (len(layers), 3)
    fields = {
        "group_norms": numbers(1),
        "cap_norms": numbers(2, scoped),
        "factors": numbers(3, scoped),
        "ratio_after": numbers(4, ()),
        "share": numbers(5),
        "counts": torch.tensor([step + 1, step + 2, step + 3], device=device),
        "norm_uncapped": numbers(6, ()),
        "norm_capped": numbers(7, ()),
        "norm_clipped": numbers(8, ()),
        "nonfinite": torch.tensor([False, False, step % 2 == 1], device=device),
    }
    return StepRecord(**{**fields, **changes})


def filled(n_steps: int, capacity: int = 100_000) -> Trace:
    trace = Trace(NAMES, capacity)
    for step in range(n_steps):
        trace.append(record(step))
    return trace


def kept_steps(n_steps: int, capacity: int) -> list[int]:
    """The policy, told slowly."""
    older: list[int] = []
    every = 1
    for leaving in range(n_steps - capacity):
        if leaving % every == 0:
            older.append(leaving)
        while len(older) > max(1, capacity // 10):
            every *= 2
            older = [step for step in older if step % every == 0]
    return [*older, *range(max(0, n_steps - capacity), n_steps)]


def test_frame() -> None:
    trace = Trace(NAMES)
    trace.append(record(0))
    trace.append(record(1, clip=clip_record(share=0.25)))
    frame = trace.to_frame()
    expected: dict[str, float] = {"step": 1}
    for k, name in enumerate(NAMES):
        expected[f"n[{name}]"] = 2 + k
    for start, column in ((2, "norm"), (3, "cap_norm"), (4, "factor"), (6, "share")):
        for k, name in enumerate(NAMES):
            expected[f"{column}[{name}]"] = start + k / 8
    expected |= {"ratio_after": 5, "norm_uncapped": 7, "norm_capped": 8, "norm_clipped": 9}
    expected |= {"nonfinite": True, "clip_threshold": 0.5, "clip_share": 0.25}
    assert frame.columns.tolist() == list(expected)
    assert frame.iloc[1].to_dict() == expected
    assert frame[["clip_threshold", "clip_share"]].iloc[0].isna().all()
    assert frame["nonfinite"].tolist() == [False, True]
    assert {str(frame[column].dtype) for column in ("step", "n[a]")} == {"int64"}


def test_frame_of_layers() -> None:
    layers = ("body.0", "head")
    trace = Trace(NAMES)
    trace.append(record(0, layers=layers))
    row = trace.to_frame().iloc[0]
    for column, start in (("cap_norm", 2), ("factor", 3)):
        labels = [f"{column}[{layer}][{name}]" for layer in layers for name in NAMES]
        assert row[labels].tolist() == [start + i / 8 for i in range(6)]
    assert "norm[a]" in row.index


def test_frame_without_steps() -> None:
    frame = Trace(NAMES).to_frame()
    assert len(frame) == 0
    assert frame.columns.tolist() == filled(1).to_frame().columns.tolist()


def test_names_with_brackets() -> None:
    names = ["x]", "a][b", "[", "]"]
    four = torch.tensor([0.5, 1.0, 2.0, 1.0])
    trace = Trace(names)
    trace.append(
        record(
            group_norms=four,
            cap_norms=four,
            factors=four,
            share=four,
            counts=torch.tensor([1, 2, 3, 0]),
            nonfinite=four > 9,
        )
    )
    row = trace.to_frame().iloc[0]
    assert [row[f"n[{name}]"] for name in names] == [1, 2, 3, 0]
    assert trace.acted()["cap_by_group"] == {"x]": 1.0, "a][b": 0.0, "[": 1.0, "]": 0.0}


def test_double_precision_is_kept() -> None:
    norms = torch.tensor([1 / 3, 2 / 3, 1e-300], dtype=torch.float64)
    trace = Trace(NAMES)
    trace.append(record(group_norms=norms))
    frame = trace.to_frame()
    assert frame[["norm[a]", "norm[b]", "norm[c]"]].iloc[0].tolist() == norms.tolist()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(n_steps=st.integers(0, 400), capacity=st.integers(1, 60))
def test_kept_steps(n_steps: int, capacity: int) -> None:
    trace = filled(n_steps, capacity)
    frame = trace.to_frame()
    steps = frame["step"].tolist()
    assert steps == kept_steps(n_steps, capacity)
    assert frame["norm_uncapped"].tolist() == [6 + step for step in steps]
    assert len(trace) == len(steps) <= capacity + max(1, capacity // 10)


def test_many_steps_are_allocated_as_they_come() -> None:
    trace = filled(2500, capacity=10**12)
    assert trace.to_frame()["n[a]"].tolist() == list(range(1, 2501))


def test_records_are_copied() -> None:
    norms = torch.ones(3)
    trace = Trace(NAMES)
    trace.append(record(group_norms=norms))
    norms.zero_()
    assert trace.to_frame()["norm[a]"].tolist() == [1.0]


def test_acted() -> None:
    trace = Trace(NAMES)
    for factors, counts, share in (
        ([1.0, 1.0, 1.0], [4, 4, 4], 0.0),
        ([0.5, 1.0, 1.0], [0, 4, 4], 0.0),  # nothing: group a is absent
        ([0.5, 1.0, 1.5], [4, 4, 4], 1.0),
        ([0.5, 1.0 - 1e-7, math.nan], [4, 4, 0], 0.5),
    ):
        trace.append(
            record(
                factors=torch.tensor(factors),
                counts=torch.tensor(counts),
                clip=clip_record(share),
            )
        )
    assert trace.acted() == {
        "n_steps": 4,
        "cap": 0.5,
        "clip": 0.5,
        "cap_by_group": {"a": 0.5, "b": 0.0, "c": 0.25},
        "absent_by_group": {"a": 0.25, "b": 0.0, "c": 0.25},
    }


def test_acted_in_one_of_the_layers() -> None:
    trace = Trace(NAMES)
    factors = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.9, 1.0]])
    trace.append(record(factors=factors, layers=("body", "head")))
    acted = trace.acted()
    assert acted["cap_by_group"] == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert acted["clip"] == 0.0


def test_acted_without_steps() -> None:
    acted = Trace(NAMES).acted()
    assert acted["n_steps"] == 0
    assert math.isnan(acted["cap"])
    assert math.isnan(acted["absent_by_group"]["b"])


@pytest.mark.parametrize("n_steps", [0, 7, 31, 500])
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_resuming_is_bit_exact(how: str, n_steps: int) -> None:
    trace, resumed = filled(n_steps, capacity=30), Trace(NAMES, capacity=30)
    resumed.append(record(99))  # is replaced
    if how == "state_dict":
        file = io.BytesIO()
        torch.save(trace.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
    else:
        resumed = copy.deepcopy(trace) if how == "deepcopy" else pickle.loads(pickle.dumps(trace))
    for step in range(n_steps, n_steps + 100):
        if step % 10 == 0:
            pd.testing.assert_frame_equal(trace.to_frame(), resumed.to_frame(), check_exact=True)
        trace.append(record(step))
        resumed.append(record(step))
    mine, theirs = trace.state_dict(), resumed.state_dict()
    assert mine.pop("rows").numpy().tobytes() == theirs.pop("rows").numpy().tobytes()
    assert mine.pop("steps").tolist() == theirs.pop("steps").tolist()
    assert mine == theirs


def test_nan_and_layers_survive_resuming() -> None:
    trace = Trace(NAMES)
    trace.append(record(group_norms=torch.tensor([math.nan, 1 / 3, math.inf]), layers=("body",)))
    resumed = Trace(NAMES)
    resumed.load_state_dict(trace.state_dict())
    pd.testing.assert_frame_equal(trace.to_frame(), resumed.to_frame(), check_exact=True)


def test_no_step_waits_for_the_device() -> None:
    trace = Trace(NAMES, capacity=3)
    records = [record(step, clip=clip_record(0.5) if step % 2 else None) for step in range(20)]
    with NoWaiting():  # type: ignore[no-untyped-call]
        for one in records:
            trace.append(one)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_cuda_device() -> None:
    trace, twin = Trace(NAMES, capacity=30), Trace(NAMES, capacity=30)
    for trip in range(2):  # the second time with rows that were loaded, not pinned
        for step in range(trip * 200, (trip + 1) * 200):
            one = record(step, device="cuda", clip=clip_record(0.5, "cuda"))
            # So that copies are still under way when slots are used again.
            torch.cuda._sleep(100_000)  # type: ignore[no-untyped-call]
            torch.cuda.set_sync_debug_mode("error")
            try:
                trace.append(one)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            twin.append(record(step, clip=clip_record(0.5)))
        pd.testing.assert_frame_equal(trace.to_frame(), twin.to_frame(), check_exact=True)
        trace = copy.deepcopy(trace)


def test_rejected_arguments() -> None:
    with pytest.raises(ValueError, match="`names` must be distinct"):
        Trace(["a", "a"])
    with pytest.raises(ValueError, match="`capacity` must be at least 1, got 0"):
        Trace(NAMES, capacity=0)


def test_rejected_records() -> None:
    with pytest.raises(ValueError, match="`record` must have the groups"):
        Trace(["a", "b"]).append(record())
    trace = filled(2)
    with pytest.raises(ValueError, match="`record` must have the groups"):
        trace.append(record(layers=("body", "head")))
    assert len(trace) == 2


@pytest.mark.parametrize("change", [{"version": 0}, {"names": ("a",)}, {"capacity": 5}])
def test_rejected_state(change: dict[str, Any]) -> None:
    trace = filled(2)
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` must be"):
        trace.load_state_dict({**trace.state_dict(), **change})
