import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairclip.comparison._threshold import choose_cut


def figures(
    y: NDArray[np.int64], scores: NDArray[np.float64], cells: NDArray[np.int64], cut: float
) -> tuple[float, float]:
    """Return accuracy and worst cell the slow, obvious way."""
    right = (scores >= cut) == y
    return right.mean(), min(right[cells == k].mean() for k in np.unique(cells))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), max_loss=st.sampled_from([0.01, 0.02, 0.3]))
def test_no_cut_within_the_loss_has_a_better_worst_cell(seed: int, max_loss: float) -> None:
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(0, 2, 40), [0, 0, 1, 1])
    cells = 2 * np.append(rng.integers(0, 2, 40), [0, 1, 0, 1]) + y
    scores = (0.3 * y + rng.random(44)).round(2) / 1.3
    cut = choose_cut(y, scores, cells, max_loss)
    accuracy, worst = figures(y, scores, cells, cut)
    least = figures(y, scores, cells, 0.5)[0] - max_loss
    assert accuracy >= least - 1e-12
    others = [figures(y, scores, cells, other) for other in [0.5, *scores]]
    assert worst >= max(w for a, w in others if a >= least) - 1e-12


def test_ties_go_to_the_middle() -> None:
    y, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert choose_cut(y, scores, y) == 0.5
