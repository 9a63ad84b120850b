"""Trace: what a step's numbers mean, which steps are kept, and that none waits for the device."""

import copy
import io
import math
import pickle
import weakref
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairclip.clipping import ByScope, ClipRecord, Norm, Update
from fairclip.trace import RawStep, StepRecord, Trace
from tests._no_waiting import NoWaiting

NAMES = ("a", "b", "c")
LAYERS = ("body.0", "head")
BY_GROUP = ("counts", "group_norms", "cap_norms", "factors", "share")
SCALARS = ("ratio_after", "norm_uncapped", "norm_capped", "norm_clipped")
ALL = (*BY_GROUP, *SCALARS, "cosine", "cosine_capped", "nonfinite")

Vectors = NDArray[np.float64]  # (L, K + 1, P) contributions; the last are of the unknown rows


def clip_record(share: float = 0.5, device: str = "cpu") -> ClipRecord:
    one = torch.ones((), device=device)
    return ClipRecord("norm", one, one * (1 - share / 2), one / 2, share_clipped=one * share)


@cache
def draw(
    seed: int, n_groups: int = 3, n_layers: int | None = None, absent: bool = True
) -> tuple[Vectors, RawStep]:
    """Return contributions of any scales and directions, and the step that they leave behind."""
    rng = np.random.default_rng(seed)
    scoped = (n_groups,) if n_layers is None else (n_layers, n_groups)
    vectors = rng.normal(size=(n_layers or 1, n_groups + 1, 4)) + rng.normal(size=4)
    vectors *= 10.0 ** rng.uniform(-3, 3, size=(n_groups + 1, 1))
    counts = rng.integers(1, 9, size=n_groups)
    if absent:
        silent = rng.random(n_groups + 1) < 0.3
        vectors[:, silent] = 0
        counts[silent[:-1] & (rng.random(n_groups) < 0.7)] = 0  # the others do have rows
    gramian = vectors @ vectors.transpose(0, 2, 1)
    raw = RawStep(
        counts,
        gramian[0] if n_layers is None else gramian,
        factors=rng.uniform(0.1, 1.5, size=scoped),
        cap_norms=rng.uniform(1, 2, size=scoped),
        reference=rng.integers(0, n_groups, size=scoped),
        norm_clipped=None,
    )
    return vectors, raw


def placed(raw: RawStep, device: str) -> RawStep:
    """Return the same as tensors on a device."""
    arrays = {field.name: getattr(raw, field.name) for field in fields(raw)}
    return RawStep(
        **{
            name: None if x is None else torch.as_tensor(x, device=device)
            for name, x in arrays.items()
        }
    )


def record(
    step: int = 0,
    *,
    layers: tuple[str, ...] | None = None,
    clip: ClipRecord | None = None,
    preserve_norm: bool = False,
    device: str | None = None,
    **numbers: Any,
) -> StepRecord:
    """A step whose first group has ``step + 1`` rows; numpy without a device."""
    raw = draw(step, 3, None if layers is None else len(layers))[1]
    norm_clipped = None if clip is None else torch.tensor(6.0 + step)
    raw = replace(raw, counts=np.array([step + 1, step % 3, 4]), norm_clipped=norm_clipped)
    raw = replace(raw, **numbers)
    raw = raw if device is None else placed(raw, device)
    return StepRecord(raw, clip, layers, preserve_norm)


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


def worked_out_directly(vectors: Vectors, raw: RawStep, preserve_norm: bool) -> dict[str, Any]:
    """Every figure of a step, by the definitions and from the contributions themselves."""
    n_groups = vectors.shape[1] - 1
    factors = np.ones(vectors.shape[:2])  # (L, K + 1), 1 for the unknown rows
    factors[:, :-1] = raw.factors
    reference = raw.reference.reshape(-1, n_groups)
    capped = vectors * factors[..., None]
    if preserve_norm and capped.sum(1).any():
        capped *= np.linalg.norm(vectors.sum(1)) / np.linalg.norm(capped.sum(1))
    update = capped.sum(1)
    lengths = np.linalg.norm(vectors, axis=(0, 2))[:-1]
    dots = [
        [(vectors[:, j] * vectors[:, k]).sum() for k in range(n_groups)] for j in range(n_groups)
    ]
    return {
        "counts": raw.counts,
        "group_norms": np.where(raw.counts > 0, lengths, math.nan),
        "cap_norms": raw.cap_norms,
        "factors": raw.factors,
        "share": [(capped[:, k] * update).sum() / (update**2).sum() for k in range(n_groups)],
        "ratio_after": np.max(
            [
                ratio(np.linalg.norm(layer[k]), np.linalg.norm(layer[code]), raw.counts[code])
                for layer, codes in zip(capped, reference, strict=True)
                for k, code in enumerate(codes)
            ]
        ),
        "norm_uncapped": np.linalg.norm(vectors.sum(1)),
        "norm_capped": np.linalg.norm(update),
        "norm_clipped": np.linalg.norm(update) if raw.norm_clipped is None else raw.norm_clipped,
        "cosine": dots / np.outer(lengths, lengths),
        "cosine_capped": (vectors.sum(1) * update).sum()
        / (np.linalg.norm(vectors.sum(1)) * np.linalg.norm(update)),
        "nonfinite": ~np.isfinite(lengths),
    }


def ratio(length: np.floating, reference: np.floating, rows: int) -> float:
    if rows == 0:
        return math.nan
    if length == 0:
        return 0.0
    return math.inf if reference == 0 else float(length / reference)


def frame_of(records: Iterable[StepRecord]) -> pd.DataFrame:
    """The frame of all steps, by reading one record after the other."""
    rows = []
    for step, one in enumerate(records):
        row: dict[str, float | str] = {"step": step}
        for name, column in zip(
            BY_GROUP, ("n", "norm", "cap_norm", "factor", "share"), strict=True
        ):
            numbers = getattr(one, name)
            if numbers.ndim == 2:
                assert one.layers is not None
                labels = [f"[{layer}][{group}]" for layer in one.layers for group in NAMES]
            else:
                labels = [f"[{group}]" for group in NAMES]
            row |= {
                f"{column}{label}": x
                for label, x in zip(labels, numbers.flatten().tolist(), strict=True)
            }
        row |= {name: getattr(one, name).item() for name in SCALARS}
        row["cosine[cap]"] = one.cosine_capped.item()
        row["nonfinite"] = one.nonfinite.any().item()
        first = int(one.raw.first_nonfinite)
        row["first_nonfinite"] = one.parameters[first] if first >= 0 else ""
        flags = one.nonfinite.tolist()
        row |= {f"nonfinite[{name}]": x for name, x in zip(NAMES, flags, strict=True)}
        if one.clip is not None:
            for what in ("norm_before", "norm_after", "threshold", "share_clipped"):
                row[f"{what}[norm]"] = getattr(one.clip, what).item()
        rows.append(row)
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------- a step's numbers


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_groups=st.integers(1, 5),
    n_layers=st.sampled_from([None, 1, 3]),
    preserve_norm=st.booleans(),
    clipped=st.booleans(),
)
def test_a_record_agrees_with_the_contributions(
    seed: int, n_groups: int, n_layers: int | None, preserve_norm: bool, clipped: bool
) -> None:
    vectors, raw = draw(seed, n_groups, n_layers)
    raw = replace(raw, norm_clipped=torch.tensor(0.25) if clipped else None)
    with np.errstate(all="ignore"):
        expected = worked_out_directly(vectors, raw, preserve_norm)
    for kind in (raw, placed(raw, "cpu")):
        one = StepRecord(kind, preserve_norm=preserve_norm)
        for name in ALL:
            actual = getattr(one, name).numpy()
            np.testing.assert_allclose(actual, expected[name], 1e-9, 1e-9, err_msg=name)
            assert actual.dtype == np.asarray(expected[name]).dtype, name


def test_a_record_worked_by_hand() -> None:
    vectors = np.array([[3.0, 0.0], [0.0, 8.0], [0.0, 0.0]])
    one = StepRecord(
        RawStep(
            counts=np.array([2, 7]),
            gramian=vectors @ vectors.T,
            factors=np.array([1.0, 0.5]),
            cap_norms=np.array([2.0, 9.0]),
            reference=np.array([0, 0]),
            norm_clipped=torch.tensor(1.0),
        )
    )
    assert one.group_norms.tolist() == [3, 8]
    assert one.norm_uncapped.item() == pytest.approx(math.sqrt(73))
    assert one.norm_capped.item() == 5
    assert one.norm_clipped.item() == 1
    assert one.share.tolist() == pytest.approx([9 / 25, 16 / 25])
    assert one.ratio_after.item() == pytest.approx(4 / 3)
    assert one.cosine.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("layers", [None, LAYERS])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_who_is_not_finite(
    value: float, layers: tuple[str, ...] | None, device: str | None
) -> None:
    vectors = draw(0, 3, None if layers is None else 2, absent=False)[0].copy()
    vectors[-1, 1, 2] = value
    with np.errstate(all="ignore"):
        gramian = vectors @ vectors.transpose(0, 2, 1)
    reference = np.zeros((2, 3), dtype=np.int64)
    one = record(
        layers=layers,
        device=device,
        gramian=gramian if layers else gramian[0],
        counts=np.array([4, 4, 4]),
        reference=reference if layers else reference[0],
    )
    assert one.nonfinite.tolist() == [False, True, False]
    for number in (one.ratio_after, one.norm_uncapped, one.norm_capped, one.share[1]):
        assert not number.isfinite()
    trace = Trace(NAMES)
    trace.append(record(layers=layers, device=device))
    trace.append(one)
    assert trace.to_frame()["nonfinite"].tolist() == [False, True]


@pytest.mark.parametrize("device", [None, "cpu"])
def test_rounding_does_not_make_a_zero_into_nan(device: str | None) -> None:
    gramian = np.diag([-1e-20, 1.0, 1.0, 0.0])
    one = record(gramian=gramian, device=device, counts=np.array([1, 1, 1]))
    assert one.group_norms.tolist() == [0, 1, 1]


# -------------------------------------------------------------------------------- a trace's frame


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("layers", [None, LAYERS])
@pytest.mark.parametrize("read_after", [None, 100, 256])
@pytest.mark.parametrize("n_steps", [1, 255, 256, 257, 520])
def test_a_frame_is_its_records_one_by_one(
    n_steps: int, read_after: int | None, layers: tuple[str, ...] | None, device: str | None
) -> None:
    records = [record(step, layers=layers, device=device) for step in range(n_steps)]
    trace = Trace(NAMES)
    for step, one in enumerate(records):
        if step == read_after:
            assert len(trace) == step
            assert trace.acted()["n_steps"] == step
        trace.append(one)
    pd.testing.assert_frame_equal(trace.to_frame(), frame_of(records), check_exact=True)


def test_a_frame_of_steps_that_were_capped_and_clipped_in_turns() -> None:
    records = [
        record(
            step,
            clip=clip_record() if step % 3 else None,
            preserve_norm=step % 5 < 2,
            device="cpu" if step % 7 < 3 else None,
        )
        for step in range(300)
    ]
    trace = Trace(NAMES)
    for one in records:
        trace.append(one)
    pd.testing.assert_frame_equal(trace.to_frame(), frame_of(records), check_exact=True)


def test_frame_without_steps() -> None:
    frame = Trace(NAMES).to_frame()
    assert len(frame) == 0
    assert frame.columns.tolist() == filled(1).to_frame().columns.tolist()


def test_names_with_brackets() -> None:
    names = ["x]", "a][b", "[", "]"]
    counts, factors = np.array([1, 2, 3, 0]), np.array([0.5, 1.0, 2.0, 1.0])
    trace = Trace(names)
    trace.append(StepRecord(replace(draw(0, 4)[1], counts=counts, factors=factors)))
    row = trace.to_frame().iloc[0]
    assert [row[f"n[{name}]"] for name in names] == [1, 2, 3, 0]
    assert trace.acted()["cap_by_group"] == {"x]": 1.0, "a][b": 0.0, "[": 1.0, "]": 0.0}


@pytest.mark.parametrize("device", [None, "cpu"])
def test_double_precision_is_kept(device: str | None) -> None:
    third = torch.tensor(1 / 3, dtype=torch.float64)
    clip = replace(clip_record(), threshold=third, share_clipped=third)
    cap_norms = np.array([1 / 3, 2 / 3, 1e-300])
    trace = Trace(NAMES)
    trace.append(record(cap_norms=cap_norms, clip=clip, norm_clipped=third, device=device))
    row = trace.to_frame().iloc[0]
    assert row[[f"cap_norm[{name}]" for name in NAMES]].tolist() == cap_norms.tolist()
    assert row[["norm_clipped", "threshold[norm]", "share_clipped[norm]"]].tolist() == [1 / 3] * 3


# ------------------------------------------------------------------------- the stages of the clip


def stage(name: str, value: float, *, scopes: tuple[str, ...] = ()) -> ClipRecord:
    """A record whose numbers can be told apart."""
    one = torch.tensor(value)
    by_scope = ByScope(scopes, *(one * torch.arange(1.0, len(scopes) + 1) * x for x in (1, 2, 3)))
    return ClipRecord(
        name,
        norm_before=one,
        norm_after=one / 2,
        threshold=one / 4,
        share_clipped=one / 8,
        cosine=one / 16,
        scopes=by_scope if scopes else None,
    )


def chain(*stages: ClipRecord) -> ClipRecord:
    return replace(clip_record(), name="Chain", stages=stages)


OF_STAGE = {"norm_before": 1.0, "norm_after": 2.0, "threshold": 4.0, "share_clipped": 8.0}


def test_each_stage_of_a_chain_has_its_columns_also_nested_and_twice() -> None:
    clip = chain(stage("Value", 1.0), chain(stage("Norm", 2.0), stage("Value", 3.0)))
    for trace in (Trace(NAMES), Trace()):
        trace.append(record(clip=clip) if trace.names else clip)
        row = trace.to_frame().iloc[0]
        for name, value in (("Value", 1.0), ("Norm", 2.0), ("Value#2", 3.0)):
            for what, divisor in (OF_STAGE | {"cosine": 16.0}).items():
                assert row[f"{what}[{name}]"] == value / divisor


def test_scopes_that_come_and_go_have_columns_with_nan_elsewhere() -> None:
    trace = Trace()
    for step in range(300):
        trace.append(stage("Norm", 1.0, scopes=("a", "b") if step % 2 else ("b",)))
    frame = trace.to_frame()
    assert frame["norm_before[Norm][a]"].isna().tolist() == [step % 2 == 0 for step in range(300)]
    assert frame["norm_after[Norm][b]"].tolist() == [
        4.0 if step % 2 else 2.0 for step in range(300)
    ]
    assert frame["threshold[Norm]"].eq(0.25).all()


@pytest.mark.parametrize("read_between", [False, True])
@pytest.mark.parametrize("n_steps", [3, 256, 600])
def test_what_is_done_after_the_clip_belongs_to_the_step(n_steps: int, read_between: bool) -> None:
    trace, grouped = Trace(), Trace(NAMES)
    for step in range(n_steps):
        update = replace(stage("Update", float(step)), ratio=torch.tensor(step / 2))
        trace.append(stage("Norm", 1.0))
        grouped.append(record(step))
        grouped.append(stage("Norm", 1.0))  # a clip that is attached: of the same step
        if read_between and step % 100 == 99:
            len(trace), len(grouped)
        trace.amend(update)
        grouped.amend(update)
    for each in (trace, grouped):
        frame = each.to_frame()
        assert frame["step"].tolist() == [*range(n_steps)]
        assert frame["update_norm"].tolist() == [step / 2 for step in range(n_steps)]
        assert frame["update_ratio"].tolist() == [step / 2 for step in range(n_steps)]
        assert frame["norm_before[Norm]"].eq(1).all()


def test_without_a_gradient_s_record_each_update_is_a_step() -> None:
    trace = Trace()
    for _ in range(5):
        trace.amend(stage("Update", 1.0))
    assert len(trace) == 5
    with pytest.raises(ValueError, match="No step was begun that the record of Update belongs to"):
        Trace(NAMES).amend(stage("Update", 1.0))


def test_an_update_alone_is_not_taken_for_a_gradient() -> None:
    trace = Trace()
    trace.amend(replace(stage("Update", math.inf), ratio=torch.tensor(1.0)))
    trace.append(stage("Norm", 1.0))
    frame = trace.to_frame()
    assert frame["norm_uncapped"].isna().tolist() == [True, False]
    assert frame["nonfinite"].tolist() == [False, False]


@pytest.mark.parametrize("n_steps", [2, 600])
def test_the_parameter_is_named_that_was_not_finite_in_its_own_step(n_steps: int) -> None:
    trace = Trace()
    names = [("a.weight", "a.bias"), ("b.weight",), ("a.bias", "b.weight")]
    for step in range(n_steps):
        own = names[step % 3]
        first = torch.tensor(len(own) - 1)
        trace.append(replace(stage("Norm", 1.0), first_nonfinite=first, parameters=own))
    expected = [names[step % 3][-1] for step in range(n_steps)]
    assert trace.to_frame()["first_nonfinite"].tolist() == expected
    resumed = Trace()
    resumed.load_state_dict(trace.state_dict())
    assert resumed.to_frame()["first_nonfinite"].tolist() == expected


def test_the_steps_of_two_optimizers_are_not_mixed() -> None:
    trace = Trace()
    first, second = (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]) for _ in range(2))
    Norm(1.0).attach(first, trace=trace)
    Update(1.0).attach(first, trace=trace)
    with pytest.raises(ValueError, match="use one Trace for each optimizer"):
        Norm(1.0).attach(second, trace=trace)


def test_a_clip_that_changes_nothing_or_is_not_finite_did_not_act() -> None:
    trace = Trace()
    for before, after in ((1.0, 1.0), (1.0, 1.0 - 1e-7), (math.nan, math.nan), (1.0, 0.5)):
        one = replace(stage("Norm", 1.0), norm_before=torch.tensor(before))
        trace.append(replace(one, norm_after=torch.tensor(after)))
    assert trace.acted()["clip"] == 0.25


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a trace keep no more numbers than this."""
    most = 2**21
    monkeypatch.setattr("fairclip.trace._trace._MOST", most)
    return most


def test_steps_that_get_many_numbers_later_are_fewer_from_then_on(most: int) -> None:
    trace = Trace()
    for _ in range(2000):
        trace.append(stage("Norm", 1.0))
    assert len(trace) == 2000
    scopes = tuple(map(str, range(680)))
    for _ in range(300):
        trace.append(stage("Norm", 1.0, scopes=scopes))
    steps = trace.to_frame()["step"].tolist()
    resumed = Trace()
    resumed.load_state_dict(trace.state_dict())
    capacity = most // (trace.to_frame().shape[1] - 1)
    assert steps[-capacity:] == [*range(2300 - capacity, 2300)]
    assert len(steps) <= capacity + capacity // 10
    assert resumed.to_frame()["step"].tolist() == steps


def test_stages_and_parameter_names_survive_resuming() -> None:
    trace, resumed = Trace(), Trace()
    for step in range(3):
        first = torch.tensor(1 if step == 1 else -1)
        clip = replace(stage("Norm", 1.0), first_nonfinite=first, parameters=("a.weight", "a.bias"))
        trace.append(clip)
    resumed.load_state_dict(trace.state_dict())
    trace.append(stage("Value", 1.0))
    resumed.append(stage("Value", 1.0))
    pd.testing.assert_frame_equal(trace.to_frame(), resumed.to_frame(), check_exact=True)
    assert resumed.to_frame()["first_nonfinite"].tolist() == ["", "a.bias", "", ""]


def test_steps_with_very_many_numbers_are_fewer(most: int) -> None:
    scopes = tuple(map(str, range(680)))
    trace = Trace()
    for _ in range(1200):
        trace.append(stage("Norm", 1.0, scopes=scopes))
    frame = trace.to_frame()
    n_numbers = frame.shape[1] - 1
    assert frame["step"].tolist() == kept_steps(1200, most // n_numbers)


# ------------------------------------------------------------------------------- the last step


def of_row(frame: pd.DataFrame) -> dict[str, float]:
    """What `latest` is to return: the last row's numbers."""
    row = frame.drop(columns=["step", "first_nonfinite"]).iloc[-1]
    return {str(name): float(x) for name, x in row.items() if not math.isnan(x)}


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("layers", [None, LAYERS])
@pytest.mark.parametrize("n_steps", [1, 40, 256, 300])
def test_the_latest_numbers_are_the_last_row(
    n_steps: int, layers: tuple[str, ...] | None, device: str | None
) -> None:
    trace, twin = Trace(NAMES, capacity=7), Trace(NAMES, capacity=7)
    for step in range(n_steps):
        one = record(step, layers=layers, clip=clip_record() if step % 2 else None, device=device)
        twin.append(one)
        trace.append(one)
        latest = trace.latest()
        if step % 37 == 0 or step == n_steps - 1:
            assert latest == of_row(twin.to_frame())
    same_state(trace, twin)  # it disturbs nothing


@pytest.mark.parametrize("n_steps", [1, 256, 300])
def test_the_latest_numbers_hold_what_was_amended_and_survive_resuming(n_steps: int) -> None:
    trace = Trace(NAMES, capacity=7)
    for step in range(n_steps):
        trace.append(record(step))
        trace.amend(replace(stage("Update", float(step)), ratio=torch.tensor(step / 2)))
    resumed = pickle.loads(pickle.dumps(trace))
    for each in (trace, resumed):
        assert each.latest()["update_ratio"] == (n_steps - 1) / 2
        assert each.latest() == of_row(trace.to_frame())


def test_the_latest_numbers_without_groups_and_before_the_first_step() -> None:
    trace = Trace()
    assert trace.latest() == Trace(NAMES).latest() == {}
    read = Trace(NAMES)
    assert read.to_frame().empty
    assert read.latest() == {}
    trace.append(stage("Norm", 1.0, scopes=("a", "b")))
    trace.append(replace(stage("Norm", 2.0), cosine=None))
    assert trace.latest() == of_row(trace.to_frame())
    assert "cosine[Norm]" not in trace.latest()


def test_the_parameter_that_was_not_finite_is_no_number() -> None:
    trace = Trace()
    trace.append(replace(stage("Norm", 1.0), first_nonfinite=torch.tensor(0), parameters=("a",)))
    assert trace.latest()["nonfinite"] == 1
    assert "first_nonfinite" not in trace.latest()


# --------------------------------------------------------------------------- which steps are kept


@settings(derandomize=True, deadline=None, max_examples=50)
@given(n_steps=st.integers(0, 400), capacity=st.integers(1, 60))
def test_kept_steps(n_steps: int, capacity: int) -> None:
    trace = filled(n_steps, capacity)
    frame = trace.to_frame()
    steps = frame["step"].tolist()
    assert steps == kept_steps(n_steps, capacity)
    assert frame["n[a]"].tolist() == [step + 1 for step in steps]
    assert len(trace) == len(steps) <= capacity + max(1, capacity // 10)


def test_many_steps_are_allocated_as_they_come() -> None:
    trace = filled(2500, capacity=10**12)
    assert trace.to_frame()["n[a]"].tolist() == list(range(1, 2501))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_steps_that_were_worked_out_are_copies(device: str | None) -> None:
    one = record(device=device)
    trace = Trace(NAMES)
    trace.append(one)
    before = trace.to_frame()
    one.cap_norms.zero_()
    pd.testing.assert_frame_equal(trace.to_frame(), before, check_exact=True)


def test_few_steps_wait() -> None:
    trace, held = Trace(NAMES, capacity=1), []
    for _ in range(600):
        factors = np.ones(3)
        held.append(weakref.ref(factors))
        trace.append(record(factors=factors))
    del factors
    assert sum(ref() is not None for ref in held) <= 256


# ----------------------------------------------------------------------- how often a stage acted


@pytest.mark.parametrize("device", [None, "cpu"])
def test_acted(device: str | None) -> None:
    trace = Trace(NAMES)
    for factors, counts, share in (
        ([1.0, 1.0, 1.0], [4, 4, 4], 0.0),
        ([0.5, 1.0, 1.0], [0, 4, 4], 0.0),  # nothing: group a is absent
        ([0.5, 1.0, 1.5], [4, 4, 4], 1.0),
        ([0.5, 1.0 - 1e-7, math.nan], [4, 4, 0], 0.5),
    ):
        trace.append(
            record(
                factors=np.array(factors),
                counts=np.array(counts),
                clip=clip_record(share),
                device=device,
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
    factors = np.array([[1.0, 1.0, 1.0], [1.0, 0.9, 1.0]])
    trace.append(record(factors=factors, layers=LAYERS, counts=np.array([4, 4, 4])))
    acted = trace.acted()
    assert acted["cap_by_group"] == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert acted["clip"] == 0.0


def test_acted_without_steps() -> None:
    acted = Trace(NAMES).acted()
    assert acted["n_steps"] == 0
    assert math.isnan(acted["cap"])
    assert math.isnan(acted["absent_by_group"]["b"])


# ------------------------------------------------------------------------------------- resuming


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
    for step in range(n_steps, n_steps + 300):
        if step % 30 == 0:
            pd.testing.assert_frame_equal(trace.to_frame(), resumed.to_frame(), check_exact=True)
        trace.append(record(step))
        resumed.append(record(step))
    same_state(trace, resumed)


@pytest.mark.parametrize("n_steps", [7, 300])
def test_an_interrupted_run_is_the_uninterrupted_one(n_steps: int) -> None:
    resumed = Trace(NAMES)
    resumed.load_state_dict(filled(n_steps).state_dict())
    for step in range(n_steps, 600):
        resumed.append(record(step))
    same_state(filled(600), resumed)


def same_state(one: Trace, other: Trace) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.pop("rows").numpy().tobytes() == theirs.pop("rows").numpy().tobytes()
    assert mine.pop("steps").tolist() == theirs.pop("steps").tolist()
    assert mine == theirs


def test_nan_and_layers_survive_resuming() -> None:
    trace = Trace(NAMES)
    cap_norms = np.array([[math.nan, 1 / 3, math.inf]])
    trace.append(record(layers=("body",), cap_norms=cap_norms))
    resumed = Trace(NAMES)
    resumed.load_state_dict(trace.state_dict())
    pd.testing.assert_frame_equal(trace.to_frame(), resumed.to_frame(), check_exact=True)


# ------------------------------------------------------------------------------ waiting for nothing


@pytest.mark.parametrize("layers", [None, LAYERS])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_no_step_waits_for_the_device(device: str | None, layers: tuple[str, ...] | None) -> None:
    records = [
        record(step, layers=layers, clip=clip_record() if step > 9 else None, device=device)
        for step in range(600)
    ]
    trace = Trace(NAMES, capacity=3)
    with NoWaiting():
        for one in records:
            trace.append(one)
    assert trace.to_frame()["n[a]"].tolist() == [step + 1 for step in kept_steps(600, capacity=3)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_cuda_device() -> None:
    trace, twin = Trace(NAMES, capacity=30), Trace(NAMES, capacity=30)
    for trip in range(2):  # the second time with rows that were loaded, not pinned
        for step in range(trip * 600, (trip + 1) * 600):
            one = record(step, device="cuda", clip=clip_record(device="cuda"))
            # So that copies are still under way when slots are used again.
            torch.cuda._sleep(100_000)
            torch.cuda.set_sync_debug_mode("error")
            try:
                trace.append(one)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            twin.append(record(step, clip=clip_record()))
        pd.testing.assert_frame_equal(trace.to_frame(), twin.to_frame(), rtol=1e-9)
        trace = copy.deepcopy(trace)


# -------------------------------------------------------------------------------- what is rejected


def test_rejected_arguments() -> None:
    with pytest.raises(ValueError, match="`names` must be distinct"):
        Trace(["a", "a"])
    with pytest.raises(ValueError, match="`capacity` must be at least 1, got 0"):
        Trace(NAMES, capacity=0)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_rejected_records(device: str | None) -> None:
    with pytest.raises(ValueError, match="`record` must have the groups"):
        Trace(["a", "b"]).append(record(device=device))
    trace = filled(2)
    with pytest.raises(ValueError, match="`record` must have the groups"):
        trace.append(record(layers=LAYERS, device=device))
    assert len(trace) == 2
    with pytest.raises(ValueError, match="`record` must have the groups"):
        trace.append(record(layers=LAYERS, device=device))
    assert len(trace) == 2


@pytest.mark.parametrize("change", [{"version": 0}, {"names": ("a",)}, {"capacity": 5}])
def test_rejected_state(change: dict[str, Any]) -> None:
    trace = filled(2)
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` must be"):
        trace.load_state_dict({**trace.state_dict(), **change})
