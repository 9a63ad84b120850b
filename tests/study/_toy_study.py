"""A study of two settings that was never run: its page and its tables in a folder."""

from pathlib import Path

from fairclip.study import study_settings
from fairclip.study._families import FAMILIES
from fairclip.study._page import make_page
from fairclip.study._record import Record
from fairclip.study._tables import write_tables
from tests.study._inputs import ENVIRONMENT, both_parts, groups_of, run


def write_toy_study(folder: Path) -> None:
    """Write page and tables of two settings: ours ahead in one, behind in the other."""
    records = []
    for setting, ours in zip(study_settings()[:2], (0.7, 0.55), strict=True):
        rows = [run("unclipped", 0.85, 0.6)]
        for i, family in enumerate(FAMILIES):
            figure = ours if family.ours else 0.6 + i / 200
            rows.append(run(family.arms[1], 0.85 - i / 500, figure, gap=0.7 - figure))
        runs = both_parts(rows)
        runs["worst_cell_accuracy"] += runs["seed"] / 100 * (runs["accuracy"] < 0.85)
        records.append(Record(setting, runs, groups_of(runs), ENVIRONMENT))
    make_page(records, study_settings()).save(folder, stem="study")
    write_tables(folder, records)
