"""The parts of the page about one setting."""

from math import isnan

import pandas as pd

from fairclip.metrics import Notes, Picture, Section, Table, plot_fronts, to_svg
from fairclip.study._families import BASELINE, OURS
from fairclip.study._fronts import BUDGET
from fairclip.study._goal import above_nothing_somewhere
from fairclip.study._headlines import cells_table, chosen_table, headlines
from fairclip.study._record import N_STRONGEST, Record
from fairclip.study._views import VIEWS, View

_RULES = {
    "worst cell": "the best worst cell, at most 2 points of accuracy below unclipped",
    "equalized odds": "the least equalized odds difference of the valid arms",
}

_CELLS = (
    "Recall of each cell with those arms; of y=1 it is the TPR, of y=0 1 - FPR. The worst cell "
    "accuracy above is the mean of each seed's least recall, and so at most the least mean here."
)


def setting_section(record: Record) -> Section:
    """Show fronts, chosen arms and who gained and lost."""
    body: list[str | Notes | Table | Picture] = [record.setting.about]
    if not above_nothing_somewhere(record.verdicts):
        body.append("No family of ours is shown to be better than doing nothing here.")
    arms = dict.fromkeys([BASELINE])
    for view in VIEWS:
        chosen = chosen_table(record, view)
        arms |= dict.fromkeys(chosen["arm"].reindex(OURS).dropna())
        rule = f"chosen on the validation parts: {_RULES[view.title]}"
        body += [
            _picture(record, view),
            Table(
                chosen,
                f"The arm of each family, {rule}. Figures of the test parts. The last column is of "
                "all arms whose test points make the area: by how much the most accurate is above "
                "unclipped, 0 where none is, in the mean over the seeds. The area leaves it out.",
            ),
            Notes(tuple(headlines(record, view))),
        ]
    cells = cells_table(record, list(arms))
    body += [
        Table(
            points_table(record),
            "Our families less doing nothing (unclipped) and less each rival, in points "
            "(hundredths) of the figure, in the mean over accuracy budgets of 0 to 10 points; 1 "
            "point is 0.001 of hypervolume.",
        ),
        Table(cells, _CELLS),
    ]
    return Section(record.setting.title, tuple(body))


def points_table(record: Record) -> pd.DataFrame:
    """Return the word and the difference against each rival, by family and view."""
    verdicts = record.verdicts
    half = verdicts["points_high"] - verdicts["points"]
    cells = [
        f"{verdict} {points:+z.1f}" + ("" if isnan(width) else f" ± {width:.1f}")
        for verdict, points, width in zip(
            verdicts["verdict"], verdicts["points"], half, strict=True
        )
    ]
    columns = verdicts["family"] + ", " + verdicts["view"]
    rivals = [f"{rival}{record.few_arms(rival)}" for rival in verdicts["rival"]]
    table = verdicts.assign(column=columns, cell=cells, rival=rivals)
    return table.pivot_table("cell", "rival", "column", aggfunc="first", sort=False)


def _picture(record: Record, view: View) -> Picture:
    front = record.mean_fronts(view)
    test = record.means_of("test")
    shown = test[test["valid"]] if view.only_valid else test
    baseline = test[["accuracy", view.metric]].T[BASELINE]
    left = float(baseline["accuracy"]) - BUDGET
    axes = plot_fronts(
        front,
        "accuracy",
        view.metric,
        main=OURS,
        coloured=record.strongest_rivals(view),
        arms=shown[shown["accuracy"] >= left],
        baseline=baseline,
        x_from=left,
    )
    name = view.metric.replace("_", " ")
    valid = "; only valid arms count" if view.only_valid else ""
    return Picture(
        to_svg(axes.figure),
        f"Accuracy and {name}: means over the seeds of the arms of each family that no other arm "
        f"of it beats on the validation parts{valid}. The points are those of the test parts; a "
        "step is the best figure of those that are at least as accurate. In colour are our "
        f"families and the {N_STRONGEST} rivals with the largest areas.",
        front[["family", "arm", "accuracy", view.metric]].set_index(["family", "arm"]),
    )
