"""What scores add to an audit, as sentences: calibration, one selection rate, other cuts."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._frames import OVERALL
from ._sentences import FEW
from ._words import figure_of, named, number, per_thousand, row

if TYPE_CHECKING:
    from .._audit import Audit


def calibration_sentences(audit: "Audit", calibration: pd.DataFrame) -> list[str]:
    """Say in how many bins score and label part, and where they do so the furthest."""
    bins = _of_groups(calibration).dropna(subset=["observed"])
    outside = (bins["mean_score"] < bins["low"]) | (bins["mean_score"] > bins["high"])
    by_chance = (1 - audit.settings["confidence"]) * len(bins)
    text = (
        f"In {outside.sum():,} of {len(bins):,} bins of groups the mean score is outside the "
        f"interval of the observed share; with exact scores about {by_chance:.0f} would be, by "
        "chance."
    )
    # The furthest by score is mostly a bin of very few rows.
    far = bins[outside & (bins["n"] >= audit.settings["min_group_size"])]
    distance = (far["mean_score"] - far["observed"]).abs().sort_values(ascending=False)
    furthest = distance.groupby(level="group", sort=False).head(1).index[:FEW]
    return [
        text,
        *(
            _bin_sentence(audit, group, which, row(far, (group, which)))
            for group, which in furthest
        ),
    ]


def matched_sentences(audit: "Audit", matched: pd.DataFrame) -> list[str]:
    """Set the gaps at one selection rate beside those of the predictions."""
    groups = matched.drop(index=OVERALL).dropna(subset=["accuracy"])
    found = audit.intervals["value"].unstack("metric").reindex(groups.index)
    sentences = []
    for metric in ("accuracy", "tpr", "fpr"):
        values = groups[metric]
        if len(groups) > 1 and values.notna().all():
            figure = figure_of(metric, audit.settings)
            sentences.append(
                f"The gap in {metric} is then {figure.distance(np.ptp(values))} points, lowest in "
                f"{named(values.idxmin())} and highest in {named(values.idxmax())}; with the "
                f"predictions as they are it is {figure.distance(np.ptp(found[metric]))}."
            )
    return sentences


def sweep_sentences(sweep: pd.DataFrame) -> list[str]:
    """Say at which common cut the groups lie furthest apart."""
    selected = row(sweep, OVERALL)["selection_rate"].to_numpy()
    cuts = sweep.loc[OVERALL].index.to_numpy(np.float64)
    sentences = []
    for metric in ("selection_rate", "tpr", "fpr"):
        rates = _of_groups(sweep)[metric].dropna()
        n_groups = rates.index.unique("group").size
        if n_groups > 1:
            values = rates.to_numpy(np.float64).reshape(n_groups, -1)
            spread = np.ptp(values, axis=0)
            widest = int(spread.argmax())
            sentences.append(
                f"With one cut for all groups the gap in {metric} is at most "
                f"{number(100 * spread[widest], 1)} points, at the cut {number(cuts[widest])}, "
                f"which selects {per_thousand(selected[widest])} of 1,000 rows."
            )
    return sentences


def _of_groups(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.index.get_level_values("group") != OVERALL]


def _bin_sentence(audit: "Audit", group: str, which: int, found: "pd.Series[float]") -> str:
    side = "high" if found["mean_score"] > found["observed"] else "low"
    observed, low, high = (per_thousand(found[name]) for name in ("observed", "low", "high"))
    return (
        f"In {named(group)} furthest in bin {which}, where scores are too {side}: the mean score "
        f"is {number(found['mean_score'])}, and of 1,000 such rows {observed} have label "
        f"{named(audit.settings['favourable'])} (between {low} and {high}); n = {found['n']:,.0f}."
    )
