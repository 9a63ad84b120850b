"""What other cuts of the score would do, group by group; a row is selected from the cut upwards."""

import numpy as np
import pandas as pd

from ._rates import Floats, Ints, divide

_N_CUTS = 100
_RATES = ("selection_rate", "tpr", "fpr", "accuracy", "precision")


def cuts(scores: Floats) -> Floats:
    """Return up to 102 cuts, descending: from infinity, which selects nobody, to the least score.

    Between them lie percentiles of all rows' scores, so that the groups' curves share their cuts.
    """
    inner = np.quantile(scores, np.linspace(1, 0, _N_CUTS + 1), method="inverted_cdf")
    return np.concatenate([[np.inf], np.unique(inner)[::-1]])


def sweep_frame(truth: Ints, scores: Floats, weights: Floats, at: Floats) -> pd.DataFrame:
    """Return the rates at each cut, one row each."""
    cuts_and_all = np.append(at, -np.inf)
    selected = np.stack(
        [
            _selected(scores[truth == label], weights[truth == label], cuts_and_all)
            for label in (0, 1)
        ]
    )
    rates = _rates(selected[:, :-1], selected[:, -1])
    return pd.DataFrame(
        {"n": len(truth), **rates}, index=pd.Index(at, name="threshold", dtype=np.float64)
    )


def matched_row(
    truth: Ints, scores: Floats, weights: Floats, selection_rate: float
) -> dict[str, float]:
    """Return the rates at the cut whose selection rate is nearest to the one given."""
    at = np.concatenate([[np.inf], np.unique(scores)[::-1]])
    selected = divide(_selected(scores, weights, at), weights.sum())
    distance = np.abs(selected - selection_rate).round(12)  # ties: the highest cut
    cut = at[[distance.argmin()]]
    row = sweep_frame(truth, scores, weights, cut).iloc[0]
    threshold = float(cut[0]) if weights.any() else float("nan")
    return {"n": len(truth), "threshold": threshold, **{name: row[name] for name in _RATES}}


def _selected(scores: Floats, weights: Floats, at: Floats) -> Floats:
    """Return the weight of the rows from each cut upwards."""
    order = np.argsort(scores, kind="stable")  # in no time where they are in order
    # From the top, since a few rows of little weight would drown in a difference of large sums.
    above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    return np.asarray(above[np.searchsorted(scores[order], at, side="left")])


def _rates(selected: Floats, totals: Floats) -> dict[str, Floats]:
    """Return the rates from the selected weight of each label, (2, cuts), and all of it, (2,)."""
    negative, positive = selected
    total = totals.sum()
    return {
        "selection_rate": divide(negative + positive, total),
        "tpr": divide(positive, totals[1]),
        "fpr": divide(negative, totals[0]),
        "accuracy": divide(positive + (totals[0] - negative), total),
        "precision": divide(positive, negative + positive),
    }
