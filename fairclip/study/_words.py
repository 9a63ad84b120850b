"""The words by setting and rival, and how fine a difference each setting can show."""

from collections.abc import Sequence

import pandas as pd

from fairclip.metrics import Notes, Section, Table
from fairclip.study._families import EXPLORATORY, GROUP_BLIND, RIVALS
from fairclip.study._record import Record
from fairclip.study._verdicts import MARGIN, OTHERS, POINTS
from fairclip.study._views import VIEWS, View

EXPLORATORY_NOTE = (
    "NormCap+norm is NormCap with preserve_norm, which rescales the capped update. It has no goal."
)
_MEANING = (
    f"Better: the interval of the difference is above 0. Worse: it is below 0. No worse: it is "
    f"above -{MARGIN * POINTS:g} points and not below 0. Undecided: it says none of these. The "
    "first row compares with doing nothing. Behind ± stands the median half-width of the intervals "
    "against the rivals, in points. The differences stand with each setting."
)


def words_section(
    heading: str, records: Sequence[Record], families: Sequence[str], note: str = ""
) -> Section:
    """Show the word for each setting and rival, one table for each family and picture."""
    tables = [
        Table(
            words_table(family, view, records),
            f"{family}{' (exploratory)' if family in EXPLORATORY else ''} against each rival, "
            f"picture: {view.title}.",
        )
        for view in VIEWS
        for family in families
    ]
    coarse = tuple(filter(None, (_unresolved(view, records, families) for view in VIEWS)))
    return Section(heading, (*([note] if note else []), _MEANING, Notes(coarse), *tables))


def words_table(family: str, view: View, records: Sequence[Record]) -> pd.DataFrame:
    """Return the words of one family in one picture, by rival and setting."""
    columns = {}
    for record in records:
        table = record.verdicts
        own = table[(table["view"] == view.title) & (table["family"] == family)]
        words = own.set_index("rival")["verdict"].reindex(list(OTHERS)).fillna("not run")
        columns[f"{record.setting.title} (± {half_width(own):.1f})"] = {
            _heading(rival): f"{words[rival]}{record.few_arms(rival)}" for rival in OTHERS
        }
    return pd.DataFrame(columns).rename_axis(f"{family} against")


def half_width(verdicts: pd.DataFrame) -> float:
    """Return the median half-width of the intervals against the rivals, in points."""
    rows = verdicts[verdicts["rival"].isin(RIVALS)]
    return float((rows["points_high"] - rows["points"]).median())


def _heading(rival: str) -> str:
    return f"{rival} (group-blind)" if rival in GROUP_BLIND else rival


def _unresolved(view: View, records: Sequence[Record], families: Sequence[str]) -> str:
    """Return on which settings the margin is finer than what the seeds can show."""
    found = []
    for record in records:
        table = record.verdicts
        own = table[(table["view"] == view.title) & table["family"].isin(families)]
        if (width := half_width(own)) > MARGIN * POINTS:
            found.append(f"{record.setting.title} (± {width:.1f})")
    if not found:
        return ""
    return (
        f"Picture {view.title}: a margin of {MARGIN * POINTS:g} points cannot be resolved on "
        f"{'; '.join(found)}. Where the half-width is larger than the margin, even equal families "
        "are undecided."
    )
