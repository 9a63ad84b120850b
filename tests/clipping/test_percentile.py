from typing import Any

import autoclip.torch
import numpy as np
import pytest
import smartclip
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import get_total_norm

from fairclip.clipping import Percentile
from tests.clipping._sequences import (
    SEQUENCES,
    lognormal,
    parameter,
    run,
    thresholds,
    with_spikes,
)

sequences = pytest.mark.parametrize("name", SEQUENCES)
percentiles = pytest.mark.parametrize("q", [0.0, 10.0, 50.0, 97.0])
windows = pytest.mark.parametrize("window", [7, 1000])  # 7 is soon full


@sequences
@percentiles
@windows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_papers_rule(name: str, q: float, window: int, dtype: torch.dtype) -> None:
    records, gradients = run(Percentile(q, window), SEQUENCES[name], dtype)
    history: list[float] = []
    eps = torch.finfo(dtype).eps  # torch and numpy round the interpolation differently
    for norm, record, gradient in zip(SEQUENCES[name], records, gradients, strict=True):
        given = parameter(norm, dtype).grad
        assert given is not None
        total = get_total_norm([given])
        history.append(float(total))
        threshold = torch.tensor(np.percentile(history[-window:], q), dtype=dtype)
        torch.testing.assert_close(record.threshold, threshold, rtol=2 * eps, atol=0)
        factor = 1.0 if total <= record.threshold else float(record.threshold) / float(total)
        torch.testing.assert_close(gradient, factor * given, rtol=4 * eps, atol=0)


@sequences
@percentiles
@windows
def test_equals_autoclip_whose_thresholds_come_one_step_later(
    name: str, q: float, window: int
) -> None:
    # The thresholds are the same to the bit. autoclip clips at that of the steps before, and not at
    # all in the first; and it adds 1e-6 to each norm N, as torch does: what it leaves is shorter
    # by up to 1e-6 / N, also where N is just below the threshold.
    records, _ = run(Percentile(q, window), SEQUENCES[name])
    theirs = parameter(0.0)
    clipper = autoclip.torch.QuantileClip(
        [theirs], quantile=q / 100, history_length=window, global_threshold=True
    )
    before = torch.tensor(torch.inf, dtype=torch.float64)
    for norm, record in zip(SEQUENCES[name], records, strict=True):
        theirs.grad, given = parameter(norm).grad, parameter(norm).grad
        clipper.step()
        assert given is not None
        factor = torch.where(record.norm_before <= before, 1.0, before / record.norm_before)
        torch.testing.assert_close(
            theirs.grad, factor * given, rtol=1e-12 + 1e-6 / norm if norm else 0, atol=0
        )
        before = record.threshold
        assert torch.equal(before, torch.quantile(clipper.state["global_history"], q / 100))


@sequences
@pytest.mark.parametrize("q", [10.0, 97.0])
@windows
def test_equals_smartclip(name: str, q: float, window: int) -> None:
    records, gradients = run(Percentile(q, window), SEQUENCES[name])
    clipper = smartclip.AutoClip(
        mode="percentile",
        percentile=q,
        history="window",
        window_size=window,
        warmup_steps=0,
        min_history=0,
    )
    eps = 1e-8  # smartclip's stand-in for 0
    seen: list[Any] = []
    for norm, record, gradient in zip(SEQUENCES[name], records, gradients, strict=True):
        model = nn.Module()
        model.weight = parameter(norm)
        smartclip.apply(model, clipper, on_metrics=seen.append)
        expected = pytest.approx(seen[-1]["threshold"], rel=1e-12, abs=2 * eps)
        assert float(record.threshold) == expected
        torch.testing.assert_close(gradient, model.weight.grad, rtol=1e-12, atol=3 * eps)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    norms=st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    q=st.floats(0, 100),
    window=st.integers(1, 40),
)
def test_equals_numpy_on_any_norms(norms: list[float], q: float, window: int) -> None:
    measured, _ = run(Percentile(q, window), norms)
    before = [float(record.norm_before) for record in measured]
    expected = [np.percentile(before[max(0, i - window) : i], q) for i in range(1, len(norms) + 1)]
    np.testing.assert_allclose([float(r.threshold) for r in measured], expected, rtol=1e-14)


def test_thresholds_worked_by_hand() -> None:
    norms = [4.0, 2.0, 8.0, 6.0]
    # Of (4), (4, 2), (2, 8) and (8, 6): a quarter of the way from the lower to the upper.
    assert thresholds(Percentile(25.0, window=2), norms) == pytest.approx([4, 2.5, 3.5, 6.5])


@pytest.mark.parametrize("q", [10.0, 50.0, 90.0])
def test_the_share_of_clipped_steps_is_what_q_says(q: float) -> None:
    records, _ = run(Percentile(q), lognormal(1500, seed=4))
    clipped = [float(record.share_clipped) for record in records[500:]]
    assert np.mean(clipped) == pytest.approx(1 - q / 100, abs=0.04)


@pytest.mark.parametrize(("q", "most"), [(10.0, 0.02), (50.0, 0.06), (90.0, 0.15)])
def test_a_spike_train_moves_the_threshold_little(q: float, most: float) -> None:
    clean = lognormal(600, seed=5)
    without, spiked = (np.array(thresholds(Percentile(q), x)) for x in (clean, with_spikes(clean)))
    assert np.abs(spiked / without - 1)[200:].max() < most


def test_a_lasting_rise_is_followed_within_the_window() -> None:
    norms = lognormal(60) + [10 * x for x in lognormal(60)]
    assert thresholds(Percentile(50.0, window=50), norms)[-1] > 8


@pytest.mark.parametrize("bad", [-1.0, 100.1, float("nan")])
def test_q_must_be_a_percentile(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`q` must be in \[0, 100\], got"):
        Percentile(bad)


@pytest.mark.parametrize("bad", [0, -1, 10.0])
def test_the_window_must_be_a_whole_number(bad: Any) -> None:
    with pytest.raises(ValueError, match="`window` must be a whole number of at least 1, got"):
        Percentile(window=bad)


def test_a_state_of_another_window_is_rejected() -> None:
    weight = parameter(1.0)
    state = Percentile(window=5).init([weight])
    with pytest.raises(ValueError, match="`window` is 6, that of the state is 5"):
        Percentile(window=6)([weight], state)
    with pytest.raises(ValueError, match=r"resume with the same `window`"):
        Percentile(window=6).init([weight]).load_state_dict(state.state_dict())
