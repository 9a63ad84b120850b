import math
from typing import Any

import numpy as np
import pytest

from fairclip.clipping import MeanStd, ZScore
from tests.clipping._sequences import SEQUENCES, lognormal, run, thresholds, with_spikes


def zclip(norms: list[float], z: float, alpha: float, warmup: int) -> list[float]:
    """Return the thresholds by the published formulas, in plain floats."""
    found: list[float] = []
    mean = variance = math.nan
    for n, norm in enumerate(norms):
        if n < warmup:
            found.append(math.inf)
            if n == warmup - 1:
                mean = float(np.mean(norms[:warmup]))
                variance = float(np.var(norms[:warmup]))
            continue
        deviation = math.sqrt(variance)
        found.append(mean + z * deviation)
        if norm > found[-1]:
            score = (norm - mean) / deviation if deviation else math.inf
            found[-1] = mean + z**2 / score * deviation
        taken = min(norm, found[-1])
        mean = alpha * mean + (1 - alpha) * taken
        variance = alpha * variance + (1 - alpha) * (taken - mean) ** 2
    return found


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("warmup", [1, 2, 25])
def test_equals_the_published_formulas(name: str, alpha: float, warmup: int) -> None:
    records, _ = run(ZScore(2.0, alpha, warmup), SEQUENCES[name])
    measured = [float(record.norm_before) for record in records]
    np.testing.assert_allclose(
        [float(record.threshold) for record in records],
        zclip(measured, 2.0, alpha, warmup),
        rtol=1e-8,
        atol=1e-14 * max(measured),
    )


def test_thresholds_worked_by_hand() -> None:
    # 1 and 3: mean 2, deviation 1. 10 scores 8, so 2 + 2**2 / 8; then mean and variance are
    # (2 + 2.5) / 2 and (1 + 0.25**2) / 2.
    found = thresholds(ZScore(z=2.0, alpha=0.5, warmup=2), [1.0, 3.0, 10.0, 2.0])
    assert found == pytest.approx([math.inf, math.inf, 2.5, 2.25 + 2 * math.sqrt(1.0625 / 2)])


def test_the_larger_the_spike_the_smaller_what_is_left() -> None:
    usual = lognormal(100)
    left = [
        float(run(ZScore(), [*usual, spike])[0][-1].norm_after) for spike in (3.0, 10.0, 1000.0)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(np.mean(usual), rel=0.2)


def test_what_is_no_spike_is_left_alone() -> None:
    records, _ = run(ZScore(), lognormal(500, seed=6))
    for record in records:
        spike = record.norm_before > record.threshold
        assert bool(record.share_clipped) == bool(spike)


def test_a_spike_train_moves_the_threshold_little() -> None:
    clean = lognormal(600, seed=5)
    spiked = [*clean[:25], *with_spikes(clean)[25:]]
    usual = np.array(clean) == np.array(spiked)
    usual[:100] = False
    change = (
        np.array(thresholds(ZScore(), spiked))[usual] / np.array(thresholds(ZScore(), clean))[usual]
    )
    assert np.abs(change - 1).max() < 0.08
    assert np.array(thresholds(MeanStd(), spiked))[usual].min() > 20  # which is 1.7 without


def test_a_spike_in_the_warm_up_is_forgotten_only_at_the_rate_of_alpha() -> None:
    norms = lognormal(600, seed=7)
    norms[10] = 100.0
    found = thresholds(ZScore(), norms)
    assert found[25] > 40
    assert found[-1] < 3


def test_norms_that_rise_for_good_are_held_at_the_old_mean_unless_bounded() -> None:
    norms = lognormal(100) + [10 * x for x in lognormal(200, seed=8)]
    assert thresholds(ZScore(), norms)[-1] < 2
    assert thresholds(ZScore(lower=5.0), norms)[-1] == 5


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        ("z", 0.0),
        ("z", math.nan),
        ("z", math.inf),
        ("alpha", 1.0),
        ("alpha", -0.1),
        ("alpha", math.nan),
        ("warmup", 0),
        ("warmup", 2.0),
    ],
)
@pytest.mark.parametrize("mode", [ZScore, MeanStd])
def test_settings_must_be_in_range(mode: Any, setting: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"`{setting}` must be"):
        mode(**{setting: bad})
