"""The section of a page that sets figures against thresholds."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ._parts import Item, Section, Table
from ._sections import notes
from ._thresholds import BELOW, INSUFFICIENT, NOT_BELOW, Threshold, compare
from ._words import counted, listed, named

if TYPE_CHECKING:
    from .._audit import Audit

_MOST_ARMS = 4  # models whose words are counted


def thresholds_section(audits: Mapping[str, "Audit"], thresholds: Sequence[Threshold]) -> Section:
    """Return the figures against the values of public texts; a single audit has no arm name."""
    tables = {arm: compare(audit, thresholds) for arm, audit in audits.items()}
    filled = {arm: table for arm, table in tables.items() if len(table)}
    compared = {name for table in filled.values() for name in table.index.unique("name")}
    missing = [t for t in thresholds if t.name not in compared]
    body: list[Item] = []
    if filled:
        frame = pd.concat(filled, names=["arm"])
        caption = (
            "Each group's figure, and what is compared with the threshold: its ratio to the "
            "highest group's, or the figure itself. The word is "
            f"“{BELOW}” where the whole interval is below the threshold, “{NOT_BELOW}” where none "
            f"of it is, and “{INSUFFICIENT}” otherwise and for groups that are too small or "
            "undefined."
        )
        body.append(
            Table(frame if len(audits) > 1 else frame.droplevel("arm"), caption, "thresholds")
        )
        body += notes(_threshold_sentences(filled, thresholds))
    if missing:
        names = listed([f"{t.name} ({t.figure})" for t in missing])
        body.append(f"Not shown, for the audit has no such figure: {names}.")
    if any("suppress_below" in audit.settings for audit in audits.values()) and filled:
        body.append("The highest group is that of the groups shown; a hidden one may be higher.")
    return Section("Thresholds", tuple(body))


def _threshold_sentences(
    tables: Mapping[str, pd.DataFrame], thresholds: Sequence[Threshold]
) -> list[str]:
    found = []
    for t in thresholds:
        of = {
            arm: table.loc[[t.name], "word"]
            for arm, table in tables.items()
            if t.name in table.index
        }
        if of:
            over = " over the highest group's" if t.comparison == "ratio_to_highest" else ""
            against = (
                "no threshold is named" if t.value is None else f"the threshold is {t.value:g}"
            )
            text = f"{t.name}: {t.figure}{over}; {against}."
            if t.value is not None and len(of) <= _MOST_ARMS:
                text += "".join(_words_counted(arm, words) for arm, words in of.items())
            found.append(
                f"{text} Source: {t.source}, text of {t.text_date}, last checked {t.checked}, "
                f"{t.url}. {t.note}".strip()
            )
    return found


def _words_counted(arm: str, words: "pd.Series[str]") -> str:
    counts = words.value_counts()
    parts = ", ".join(f"{counts.get(w, 0):,} {w}" for w in (BELOW, NOT_BELOW, INSUFFICIENT))
    return f" {f'{named(arm)}, of' if arm else 'Of'} {counted(len(words), 'group')}: {parts}."
