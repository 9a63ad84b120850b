"""The arms that are shown on every setting, chosen by no figure."""

from fairclip.metrics import Table
from fairclip.study._families import arms_of_study
from fairclip.study._untuned import UNTUNED, untuned_section, untuned_table
from tests.study._inputs import both_parts, record, run


def test_they_are_arms_of_the_study() -> None:
    assert set(UNTUNED) <= set(arms_of_study(costly=True, smoke=False))


def test_changes_have_their_interval_and_arms_that_are_missing_say_so() -> None:
    runs = both_parts([run("unclipped", 0.85, 0.6), run("fair_cap@2", 0.84, 0.7, gap=0.12)])
    test = (runs["arm"] == "fair_cap@2") & (runs["part"] == "test")
    runs.loc[test, "accuracy"] = [0.83, 0.84, 0.85]
    found = record(runs)
    table = untuned_table([found], "accuracy")
    assert str(table.loc["fair_cap@2", "Toy"]).startswith("-0.010 ± 0.0")
    assert table.loc["reweight@0.5", "Toy"] == "not run"
    tables = [part for part in untuned_section([found]).body if isinstance(part, Table)]
    shown = {table.caption: table.frame.loc["fair_cap@2", "Toy"] for table in tables}
    assert shown["Change of worst cell accuracy."] == "+0.100 ± 0.000"
    assert shown["Change of equalized odds difference."] == "+0.020 ± 0.000"
