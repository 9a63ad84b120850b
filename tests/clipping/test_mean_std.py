import math

import numpy as np
import pytest

from fairclip.clipping import MeanStd
from tests.clipping._sequences import SEQUENCES, lognormal, run, thresholds, with_spikes


def expected(norms: list[float], z: float, alpha: float, warmup: int) -> list[float]:
    """Return the thresholds from all norms at once."""
    found = []
    for n in range(len(norms)):
        if n < warmup:
            found.append(math.inf)
            continue
        past, weights = np.array(norms[:n]), float(alpha) ** np.arange(n - 1, -1, -1)
        mean = np.average(past, weights=weights)
        found.append(mean + z * math.sqrt(np.average((past - mean) ** 2, weights=weights)))
    return found


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("warmup", [1, 25])
def test_equals_the_weighted_moments_of_all_norms(name: str, alpha: float, warmup: int) -> None:
    records, _ = run(MeanStd(2.0, alpha, warmup), SEQUENCES[name])
    measured = [float(record.norm_before) for record in records]
    np.testing.assert_allclose(
        [float(record.threshold) for record in records],
        expected(measured, 2.0, alpha, warmup),
        rtol=1e-9,
        atol=1e-14 * max(measured),
    )


def test_thresholds_worked_by_hand() -> None:
    # After 1 and 4 with weights 1/3 and 2/3: mean 3, variance 4/3 + 2/3 = 2.
    found = thresholds(MeanStd(z=1.0, alpha=0.5, warmup=1), [1.0, 4.0, 9.0])
    assert found == pytest.approx([math.inf, 1.0, 3 + math.sqrt(2)])


def test_a_spike_does_not_lift_its_own_threshold() -> None:
    norms = [*lognormal(100), 1e4]
    assert thresholds(MeanStd(), norms)[-1] < 2.5


def test_a_spike_train_lifts_the_threshold_as_the_docstring_says() -> None:
    clean = lognormal(600, seed=5)
    spiked = with_spikes(clean)
    lifted = np.array(thresholds(MeanStd(), spiked)[200:]) / thresholds(MeanStd(), clean)[200:]
    assert 25 < np.median(lifted) < 45
