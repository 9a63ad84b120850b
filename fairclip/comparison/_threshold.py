"""A cut of the scores for everyone. Shapes: V validation rows, K cells, T cuts."""

import numpy as np
from numpy.typing import NDArray


def choose_cut(
    y_true: NDArray[np.int64],
    scores: NDArray[np.float64],
    cells: NDArray[np.int64],
    max_loss: float = 0.02,
) -> float:
    """Return the cut with the best worst cell among those that keep the accuracy.

    Predictions are ``scores >= cut``. Ties go to the cut nearest to 0.5.

    Args:
        y_true: 0 or 1.
        scores: Probabilities of class 1.
        cells: The (group, label) cell of each row; -1 belongs to none.
        max_loss: What accuracy may lose against the cut 0.5; share in [0, 1].

    Shape:
        - ``y_true``, ``scores``, ``cells``: ``(V,)``.

    Example:
        >>> import numpy as np
        >>> y = np.array([0, 0, 0, 1, 1])
        >>> float(choose_cut(y, np.array([0.1, 0.2, 0.3, 0.4, 0.6]), y))
        0.4
    """
    cuts = np.unique(np.append(scores, 0.5))  # (T,)

    def recalls(member: NDArray[np.bool_], label: int) -> NDArray[np.float64]:
        below = np.searchsorted(np.sort(scores[member]), cuts) / member.sum()  # (T,)
        return np.asarray(1 - below if label else below)

    share = y_true.mean()
    accuracy = share * recalls(y_true == 1, 1) + (1 - share) * recalls(y_true == 0, 0)
    worst = np.min(
        [recalls(cells == k, int(y_true[cells == k][0])) for k in np.unique(cells[cells >= 0])],
        axis=0,
    )
    enough = accuracy >= accuracy[cuts == 0.5] - max_loss
    best = np.flatnonzero(enough & (worst == worst[enough].max()))
    return float(cuts[best[np.abs(cuts[best] - 0.5).argmin()]])
