"""The tables beside the page, from which it can be checked and its pictures drawn again."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairclip.metrics import neutralise_formulas
from fairclip.study._families import OURS
from fairclip.study._record import Record
from fairclip.study._views import View

# Enough to find every word again.
_DIGITS = "%.6g"


def write_tables(out: Path, records: Sequence[Record]) -> None:
    """Write verdicts.csv, fronts.csv, pictures.csv and arms.csv, by setting and view.

    - ``verdicts.csv``: each word with its difference and interval, the words under other choices,
      and the rows of the test part over those of the training part, for which the interval is
      corrected. The rival ``unclipped`` is doing nothing.
    - ``fronts.csv``: for each seed the test points of the arms that each family chooses on
      validation; the family ``unclipped`` has the baseline alone.
    - ``pictures.csv``: the same of the means over the seeds, which the pictures show, and which
      families have a colour there.
    - ``arms.csv``: the means of every arm on both parts.

    Args:
        out: The folder of the study.
        records: Of the settings that are finished.
    """
    found: dict[str, list[pd.DataFrame]] = {
        "verdicts": [],
        "fronts": [],
        "pictures": [],
        "arms": [],
    }
    for record in records:
        for name, frame in _tables_of(record).items():
            frame.insert(0, "setting", record.setting.name)
            found[name].append(frame)
    for name, frames in found.items():
        table = pd.concat(frames) if frames else pd.DataFrame({"setting": []})
        text = neutralise_formulas(table).to_csv(
            index=False, lineterminator="\n", float_format=_DIGITS
        )
        (out / f"{name}.csv").write_text(text, encoding="utf-8")


def _tables_of(record: Record) -> dict[str, pd.DataFrame]:
    fronts, pictures = [], []
    for view, front in record.fronts.items():
        fronts.append(_long(front, view))
        means = record.mean_fronts(view).drop(columns="seed")
        coloured = means["family"].isin([*OURS, *record.strongest_rivals(view)])
        pictures.append(_long(means, view).assign(metric=view.metric, coloured=coloured))
    return {
        "verdicts": record.verdicts.assign(test_over_train=record.test_over_train),
        "fronts": pd.concat(fronts),
        "pictures": pd.concat(pictures),
        "arms": _arms(record),
    }


def _long(front: pd.DataFrame, view: View) -> pd.DataFrame:
    table = front.rename(columns={view.metric: "figure"})
    table.insert(0, "view", view.title)
    return table


def _arms(record: Record) -> pd.DataFrame:
    families = {
        arm: ", ".join(family.name for family in record.families if arm in family.arms)
        for arm in record.test.index
    }
    validation = record.means_of("validation").drop(columns=["part", "seed"])
    frame = record.test.join(validation.add_prefix("validation_"))
    frame["valid"] = record.means_of("test")["valid"]
    frame.insert(0, "family", pd.Series(families))
    return frame.reset_index()
