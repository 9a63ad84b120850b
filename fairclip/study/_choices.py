"""Where not to use fair clipping, and how much the choices of the study decide."""

from collections.abc import Sequence

import pandas as pd

from fairclip.metrics import Notes, Section, Table
from fairclip.study._families import PRIMARY, RIVALS
from fairclip.study._goal import (
    BOTH,
    above_nothing_somewhere,
    above_simple_somewhere,
    goal_of,
    not_above_simple,
)
from fairclip.study._record import Record
from fairclip.study._sensitivity import ALTERNATIVES, invalid_on_test
from fairclip.study._views import VIEWS


def not_here_section(records: Sequence[Record], others: Sequence[Record]) -> Section:
    """Say in which settings simpler methods do as well or better, and where nothing does.

    Args:
        records: Of the settings that count for the goal.
        others: Of other models, which are counted apart.
    """
    notes = [
        f"{record.setting.title}, {family}: {'; '.join(found)}."
        for record in records
        for family in PRIMARY
        if (found := not_above_simple(family, record.verdicts))
    ]
    return Section(
        "Where fair clipping should not be used",
        (
            "Label reweighting and thresholds need no group, reweighting needs only the groups' "
            "sizes. Where fair clipping is not shown to be better than one of them, these figures "
            "are no reason to prefer it to that one: begin with what needs less. Where it is not "
            "shown to be better than unclipped, they are none to use it at all.",
            *_counted(records, "settings"),
            *(_counted(others, "settings with logistic regression") if others else ()),
            Notes(tuple(notes)),
        ),
    )


def _counted(records: Sequence[Record], what: str) -> tuple[str, ...]:
    nothing = [r.setting.title for r in records if not above_nothing_somewhere(r.verdicts)]
    simple = [r.setting.title for r in records if not above_simple_somewhere(r.verdicts)]
    return tuple(
        f"In neither picture is a family of ours shown to be better than {rival} on {len(titles)} "
        f"of {len(records)} {what}: {'; '.join(titles) or 'none'}."
        for rival, titles in (
            ("doing nothing (unclipped)", nothing),
            ("label reweighting, thresholds and reweighting, all three,", simple),
        )
    )


def choices_section(records: Sequence[Record]) -> Section:
    """Say in how many pairs another choice would change the word."""
    table = pd.concat([record.verdicts for record in records])
    pairs = table[table["rival"].isin(RIVALS)]
    verdicts = {record.setting.name: record.verdicts for record in records}
    rows = []
    for column, text in {"verdict": "as on this page", **ALTERNATIVES}.items():
        changed = pairs[column] != pairs["verdict"]
        counts = {
            view.title: f"{changed[here].sum()} of {here.sum()}"
            for view in VIEWS
            for here in [pairs["view"] == view.title]
        }
        held = {
            f"{family}: settings that hold": goal_of(family, verdicts, 0, column).held[BOTH]
            for family in PRIMARY
        }
        rows.append({"choice": text, **counts, **held})
    shares = {record.setting.title: invalid_on_test(record.points) for record in records}
    invalid = pd.Series(shares, name="invalid on test").rename_axis("setting").to_frame()
    return Section(
        "How much hangs on these choices",
        (
            "The area takes a maximum over the test points of the arms that were chosen, which are "
            "noisy: the more arms a family has chosen, the more of that noise it keeps. The step "
            "curve takes none: for each accuracy budget one arm is picked on the validation part, "
            "with the best figure there, and only its test figure is read.",
            Table(
                pd.DataFrame(rows).set_index("choice"),
                "In how many pairs of our families and rivals, over the settings, the word changes "
                "by picture, and in how many settings the goal's first part holds in both.",
            ),
            Table(
                invalid,
                "Share of the arms and seeds that are valid on the validation part and invalid on "
                "the test part.",
            ),
        ),
    )
