"""CapState: resuming, devices and dtypes, and no wait for the device."""

import io
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.capping import NormCap
from fairclip.exceptions import FairclipWarning
from tests._no_waiting import NoWaiting
from tests.capping._inputs import CAPS, COUNTS, batches, strata
from tests.capping._properties import apply, apply_as_on_a_device

ROWS = [500, 90, 300, 40]
drawn = settings(derandomize=True, deadline=None, max_examples=150)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CAPS)
def test_no_step_waits_for_the_device(name: str, known: bool) -> None:
    cap = CAPS[name]
    state = cap.init(ROWS if known else None, strata(4), n_groups=4)
    steps = batches(4, 3, seed=0, nonfinite=True)
    with NoWaiting():
        for step in steps:
            apply_as_on_a_device(cap, step, state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CAPS)
def test_no_step_waits_for_a_cuda_device(name: str, known: bool) -> None:
    cap, counts = CAPS[name], ROWS if known else None
    state, twin = (cap.init(counts, strata(4), n_groups=4) for _ in range(2))
    for step in batches(4, 30, seed=0, nonfinite=True):
        norms, batch_counts, present = step.norms.cuda(), step.counts.cuda(), step.present.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            factors = cap(norms, batch_counts, present, state)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(factors.cpu(), apply(cap, step, twin))
        torch.testing.assert_close(state.averages.cpu(), twin.averages, equal_nan=True)
        assert torch.equal(state.reference.cpu(), twin.reference)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_resuming_on_another_device() -> None:
    cap = NormCap()
    state, resumed, back = (cap.init(ROWS) for _ in range(3))
    first, second, third = batches(4, 3, seed=5)
    apply(cap, first, state)
    resumed.load_state_dict(state.state_dict())
    factors = apply(cap, second.to("cuda"), resumed)
    torch.testing.assert_close(factors.cpu(), apply(cap, second, state))
    back.load_state_dict(resumed.state_dict())
    torch.testing.assert_close(apply(cap, third, back), apply(cap, third, state))


@drawn
@given(
    name=st.sampled_from(sorted(CAPS)),
    counts=st.sampled_from(sorted(COUNTS)),
    known=st.booleans(),
    n_layers=st.sampled_from([None, 1, 3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_numpy_and_torch_agree(
    name: str, counts: str, known: bool, n_layers: int | None, dtype: torch.dtype, seed: int
) -> None:
    rows = COUNTS[counts]
    cap = replace(CAPS[name], scope="global" if n_layers is None else "layer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairclipWarning)
        state, twin = (
            cap.init(rows if known else None, strata(len(rows)), n_groups=len(rows))
            for _ in range(2)
        )
    for step in batches(len(rows), 10, seed, n_layers=n_layers, nonfinite=True, dtype=dtype):
        factors = apply(cap, step, state)
        by_torch, reference, averages = apply_as_on_a_device(cap, step, twin)
        assert by_torch.dtype == dtype
        assert torch.equal(state.reference, reference)
        assert torch.equal(state.averages.nan_to_num(-1), averages.nan_to_num(-1))
        if cap.within == "all":
            assert torch.equal(factors, by_torch)
        else:  # torch adds a label's rows in another order
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(factors, by_torch, rtol=4 * eps, atol=0)


@pytest.mark.parametrize("name", CAPS)
def test_arrays_in_arrays_out(name: str) -> None:
    cap = CAPS[name]
    state, twin = (cap.init(ROWS, strata(4)) for _ in range(2))
    for step in batches(4, 5, seed=2):
        factors = apply(cap, step, twin)
        norms, batch_counts, present = (x.numpy() for x in (step.norms, step.counts, step.present))
        by_numpy = cap(norms, batch_counts, present, state)
        assert by_numpy.tobytes() == factors.numpy().tobytes()
        assert state.averages.tobytes() == twin.averages.numpy().tobytes()
        assert state.reference.tobytes() == twin.reference.numpy().tobytes()


def test_the_state_follows_from_arrays_to_tensors_and_back() -> None:
    cap = NormCap(smoothing=0.5)
    state, twin = (cap.init(ROWS) for _ in range(2))
    for i, step in enumerate(batches(4, 6, seed=4)):
        expected = apply(cap, step, twin)
        factors = apply_as_on_a_device(cap, step, state)[0] if i % 2 else apply(cap, step, state)
        assert torch.equal(factors, expected)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CAPS)
def test_resuming_is_bit_exact(name: str, known: bool, scope: str) -> None:
    cap = replace(CAPS[name], scope=scope)
    counts, n_layers = ROWS if known else None, 2 if scope == "layer" else None
    state, resumed = (cap.init(counts, strata(4), n_groups=4) for _ in range(2))
    steps = batches(4, 20, seed=5, n_layers=n_layers, dtype=torch.float32)
    for step in steps[:10]:
        apply(cap, step, state)
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed.averages.nan_to_num(-1), state.averages.nan_to_num(-1))
    for step in steps[10:]:
        assert torch.equal(apply(cap, step, state), apply(cap, step, resumed))


def test_a_fresh_state_is_saved_and_loaded() -> None:
    cap = NormCap()
    state, resumed = cap.init(ROWS), cap.init(ROWS)
    used = batches(4, 2, seed=1)
    for step in used:
        apply(cap, step, resumed)
    resumed.load_state_dict(state.state_dict())
    assert resumed.averages.isnan().all()
    step = batches(4, 1, seed=0)[0]
    assert torch.equal(apply(cap, step, state), apply(cap, step, resumed))


def test_the_state_follows_the_dtype() -> None:
    cap = NormCap()
    state = cap.init(ROWS)
    for dtype in (torch.float32, torch.float64):
        for step in batches(4, 3, seed=0, dtype=dtype):
            assert apply(cap, step, state).dtype == dtype
            assert state.averages.dtype == dtype


def test_counts_of_the_rows_seen_so_far() -> None:
    cap = NormCap(max_ratio=1.0, floor=0.0)
    state = cap.init(n_groups=2)
    factors = []
    for _ in range(3):
        norms, counts = torch.tensor([4.0, 1.0]), torch.tensor([60, 10])
        factors.append(cap(norms, counts, counts > 0, state).tolist())
    # Group 1 becomes the minority once 30 of its rows were seen; until then it is pooled, and the
    # reference is group 0.
    assert factors == [[1.0, 1.0], [1.0, 1.0], [0.25, 1.0]]
    assert state.counts.tolist() == [180, 30]


def test_rejected_state() -> None:
    cap = NormCap()
    saved = cap.init(ROWS).state_dict()
    with pytest.raises(ValueError, match="`version` must be 1, got 0"):
        cap.init(ROWS).load_state_dict({**saved, "version": 0})
    for other in ([500, 90], [500, 90, 300, 41]):
        with pytest.raises(ValueError, match="resume with the groups and the data"):
            cap.init(other).load_state_dict(saved)


def test_rejected_norms() -> None:
    step = torch.tensor([8, 8])
    for cap, shape in ((NormCap(), (3,)), (NormCap(), (1, 2)), (NormCap(scope="layer"), (2,))):
        with pytest.raises(ValueError, match="`norms` must be"):
            cap(torch.ones(shape), step, step > 0, cap.init([500, 50]))
    cap = NormCap(scope="layer")
    state = cap.init([500, 50])
    cap(torch.ones(3, 2), step, step > 0, state)
    with pytest.raises(ValueError, match=r"must keep their shape \(3, 2\), got \(4, 2\)"):
        cap(torch.ones(4, 2), step, step > 0, state)
    assert math.isclose(float(state.averages.sum()), 6.0)
