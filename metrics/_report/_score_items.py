"""What scores add to a page: calibration, groups at one selection rate, other cuts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._plots import plot_calibration, plot_roc, to_svg
from ._parts import Item, Picture, Table
from ._score_sentences import calibration_sentences, matched_sentences, sweep_sentences
from ._sections import notes
from ._words import named, per_thousand

if TYPE_CHECKING:
    from .._audit import Audit

_COARSE = 0.01  # a larger spread of selection rates is none at one rate
_MOST_DRAWN = 3  # models whose calibration is drawn


def calibration_items(audits: Mapping[str, "Audit"], *, pictures: bool) -> list[Item]:
    """Return the calibration of each model by group; a single model has no name."""
    frames = {arm: a.calibration for arm, a in audits.items() if a.calibration is not None}
    if not frames:
        return []
    of = {arm: f" of {named(arm)}" if arm else "" for arm in frames}
    body: list[Item] = []
    for i, (arm, frame) in enumerate(frames.items()):
        name = "calibration" if len(frames) == 1 else f"calibration_{i + 1}"
        caption = (
            f"Calibration{of[arm]}: in each tenth of the scores' range (a bin), the mean score "
            "beside the share of rows with the favourable label."
        )
        if pictures and i < _MOST_DRAWN:
            svg = to_svg(plot_calibration(frame).figure)
            body.append(Picture(svg, caption, frame, name))
        else:
            body.append(Table(frame, caption, name))
        body += notes(calibration_sentences(audits[arm], frame))
    return body


def matched_items(audit: "Audit") -> list[Item]:
    """Return the groups of one model, each cut where it is selected as often as all rows are."""
    if audit.matched is None:
        return []
    rate = per_thousand(audit.overall["selection_rate"])
    rates = audit.matched["selection_rate"]
    said = "These gaps are there although all groups are selected about equally often."
    if rates.max() - rates.min() > _COARSE:
        said = (
            "The scores are too coarse for that: between "
            f"{per_thousand(rates.min())} and {per_thousand(rates.max())} of 1,000 are selected."
        )
    return [
        f"Matched selection rates: each group is cut at the score from which, as nearly as its "
        f"scores allow, {rate} of 1,000 rows are selected, the rate of all rows. {said}",
        Table(audit.matched.astype({"n": "Int64"}), "The groups at one selection rate.", "matched"),
        *notes(matched_sentences(audit, audit.matched)),
    ]


def sweep_items(audit: "Audit", *, pictures: bool) -> list[Item]:
    """Return the ROC curves and the rates that they are made of."""
    if audit.sweep is None:
        return []
    caption = (
        "Rates of all rows and of each group at common cuts of the score; TPR against FPR is the "
        "ROC curve."
    )
    item: Item = Table(audit.sweep, caption, "sweep")
    if pictures:
        item = Picture(to_svg(plot_roc(audit.sweep).figure), caption, audit.sweep, "sweep")
    return [item, *notes(sweep_sentences(audit.sweep))]
