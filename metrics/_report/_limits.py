"""What figures do not say, in plain words."""

from typing import TYPE_CHECKING

from ._parts import Notes, Section

if TYPE_CHECKING:
    from .._audit import Audit


def limits(audit: "Audit") -> list[str]:
    """Return what the figures of this audit do not say."""
    found = [
        f"An interval at {100 * audit.settings['confidence']:g}% covers the draw of the rows: "
        "another sample of the same population, with the model as it is. It does not cover "
        "training the model again, wrong labels, nor people who are not in the data. Of many "
        "intervals that are read at once, some miss.",
        "A maximum or minimum over groups, and so a gap, has no interval: that of a bootstrap "
        "would cover far less often than it says. A worst group has a bound that holds for all "
        "groups at once.",
        "A p is the share of data sets with reshuffled groups whose gap is at least as large. It "
        "says nothing about the size of a gap, nor about its cause; with many rows a small gap has "
        "a small p.",
        "n/a is what is undefined, mostly for want of rows. It is not 0. Numbers are rounded one "
        "by one, so that a difference may be off by one in its last digit.",
        "Labels may carry past decisions of people. Every figure that compares with the label "
        "takes it as given.",
    ]
    if audit.settings["weighted"]:
        found.append(
            "Rows count by their weights: “of 1,000 rows” is of a weight of 1,000. Intervals are "
            "those of the effective number of rows, at most (sum of the weights)² over the sum of "
            "their squares, which is below n unless all weights are equal."
        )
    return found


def page_limits(audit: "Audit") -> Section:
    """Return what the figures and words of a page do not say."""
    found = limits(audit)
    if audit.matched is not None:
        found.append(
            "At matched selection rates each group is cut at a score of its own. That shows which "
            "gaps remain when all are selected about as often; it is no advice to use such cuts."
        )
    if audit.settings["task"] != "regression":
        found.append(
            "Where base rates differ, scores that are calibrated in each group and equal error "
            "rates cannot in general be had together: Chouldechova, “Fair prediction with "
            "disparate impact” (2017); Kleinberg, Mullainathan and Raghavan, “Inherent trade-offs "
            "in the fair determination of risk scores” (2016)."
        )
        found.append(
            "The four-fifths rule is a rule of thumb. A word in the table of thresholds compares "
            "numbers; it is no finding, and none about a law. The interval of a ratio to the "
            "highest group takes as given which group that is."
        )
    return Section("Limits", (Notes(tuple(found)),))
