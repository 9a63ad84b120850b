"""CapState: resuming, devices and dtypes, and no wait for the device."""

import io
import math

import pytest
import torch

from fairclip.capping import NormCap
from tests.capping._inputs import CAPS, batches, strata
from tests.capping._properties import NoWaiting, apply

ROWS = [500, 90, 300, 40]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CAPS)
def test_no_step_waits_for_the_device(name: str, known: bool) -> None:
    cap = CAPS[name]
    state = cap.init(ROWS if known else None, strata(4), n_groups=4)
    steps = [(step, step.present) for step in batches(4, 3, seed=0, nonfinite=True)]
    with NoWaiting():  # type: ignore[no-untyped-call]
        for step, present in steps:
            cap(step.norms, step.counts, present, state)
            _ = state.averages


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
            averages = state.averages
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(factors.cpu(), apply(cap, step, twin))
        torch.testing.assert_close(averages.cpu(), twin.averages, equal_nan=True)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CAPS)
def test_resuming_is_bit_exact(name: str, known: bool, scope: str) -> None:
    fields = {field: getattr(CAPS[name], field) for field in NormCap.__dataclass_fields__}
    cap = NormCap(**{**fields, "scope": scope})
    counts, n_layers = ROWS if known else None, 2 if scope == "layer" else None
    state, resumed = (cap.init(counts, strata(4), n_groups=4) for _ in range(2))
    steps = batches(4, 20, seed=5, n_layers=n_layers, dtype=torch.float32)
    for step in steps[:10]:
        apply(cap, step, state)
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in steps[10:]:
        assert torch.equal(apply(cap, step, state), apply(cap, step, resumed))


def test_a_fresh_state_is_saved_and_loaded() -> None:
    cap = NormCap()
    state, resumed = cap.init(ROWS), cap.init(ROWS)
    resumed.load_state_dict(state.state_dict())
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
