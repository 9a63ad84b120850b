"""What the page says, and that it says nothing else."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from fairclip.metrics import Notes, Report, report_schema
from fairclip.study._families import FAMILIES, PRIMARY
from fairclip.study._page import make_page
from fairclip.study._record import Record
from fairclip.study._settings import Setting
from tests.study._inputs import both_parts, groups_of, record, run

HOSTILE = "<script>alert('x')</script>"


def study(main: list[Record], others: list[Record] | None = None, missing: int = 0) -> Report:
    found = [*main, *(others or [])]
    settings = [r.setting for r in found]
    settings += [Setting(f"m{i}", f"Missing {i}", "", {}) for i in range(missing)]
    return make_page(found, settings)


def toy(title: str, ours: float, *, main: bool = True) -> Record:
    """Return a record in which our families have this worst cell, and all others 0.62."""
    rows = [run("unclipped", 0.85, 0.6)]
    for family in FAMILIES:
        figure = ours if family.ours else 0.62
        rows.append(run(family.arms[1], 0.85, figure, gap=0.7 - figure))
    return record(both_parts(rows), title, main=main)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    main = [toy("Gain", 0.7), toy(f"Loss {HOSTILE}", 0.6)]
    study(main, [toy("Logistic", 0.7, main=False)], missing=1).save(out, stem="study")
    return out


def text(folder: Path) -> str:
    return (folder / "study.md").read_text(encoding="utf-8")


def test_the_first_lines_are_the_answer(saved: Path) -> None:
    lead = text(saved).splitlines()[2]
    assert lead.startswith(
        "NormCap: goal not met. NormCap+balance: goal not met. TargetCap: goal not met. Of 3 "
        "settings, better or no worse than every rival (goal: at least 6): NormCap 1, "
        "NormCap+balance 1, TargetCap 1; better than label reweighting and thresholds, which know "
        "no group (goal: at least 4): NormCap 1, "
    )


def test_what_is_missing_is_named(saved: Path) -> None:
    assert "Not finished, and counted as not reached: Missing 0." in text(saved)
    assert json.loads((saved / "study.json").read_text())["missing"] == ["m0"]


def test_its_json_follows_the_schema(saved: Path) -> None:
    content, schema = json.loads((saved / "study.json").read_text()), report_schema()
    Draft202012Validator(schema).validate(content)
    assert set(content) <= set(schema["properties"])


def test_each_setting_has_a_word_for_each_rival(saved: Path) -> None:
    tables = json.loads((saved / "study.json").read_text())["tables"]
    captions = [
        t for t in tables if t["caption"] == "NormCap against each rival, picture: worst cell."
    ]
    main, other = captions
    assert main["rows"][0][0] == "unclipped"
    words = {title: {row[i] for row in main["rows"][1:]} for i, title in enumerate(main["columns"])}
    gain, loss = main["columns"][1:]
    assert gain.startswith("Gain (± ")
    assert loss.startswith(f"Loss {HOSTILE} (± ")
    assert (words[gain], words[loss]) == ({"better"}, {"worse"})
    assert [title.partition(" (")[0] for title in other["columns"][1:]] == ["Logistic"]


def test_the_lead_is_of_the_families_that_have_a_goal(saved: Path) -> None:
    lead, rest = text(saved).splitlines()[2], text(saved)
    assert lead.count("goal not met") == 3
    assert "NormCap+norm" not in lead
    assert "preserve_norm" in rest.partition("## Exploratory families")[2]
    goals = json.loads((saved / "study.json").read_text())["goal"]
    assert goals == dict.fromkeys(PRIMARY, "not met")


def test_what_limits_it_is_in_the_first_lines_and_shown_with_its_figures(saved: Path) -> None:
    lead, rest = text(saved).splitlines()[2], text(saved)
    assert "no family, ours or a rival, holds on more than 2 of 2 settings (" in lead
    assert "What goes with it: " in lead
    assert "| reweighting | +2.0 | +2.0 |" in rest.partition("## Why")[2].partition("##")[0]


def test_what_was_chosen_by_which_tables_is_said(saved: Path) -> None:
    part = text(saved).partition("## The answer")[2].partition("##")[0]
    for made in ("label_balance", "soft recalls", "grids of NormCap", "Two rules were changed"):
        assert made in part


def test_better_than_nothing_is_a_word_of_its_own(saved: Path) -> None:
    tables = json.loads((saved / "study.json").read_text())["tables"]
    words = next(t for t in tables if t["caption"].startswith("NormCap against each rival"))
    assert words["rows"][0][1:] == ["better", "no worse"]


def test_a_setting_without_a_verdict_has_a_page() -> None:
    found = record(both_parts([run("unclipped", 0.85, 0.6), run("cut@0.4", 0.85, 0.65)]))
    page = study([found])
    assert "goal not met" in page.lead
    words = next(t.frame for t in page.tables() if t.caption.startswith("NormCap against"))
    assert set(words.iloc[:, 0]) == {"not run"}


def test_a_margin_that_is_too_fine_for_the_seeds_is_said() -> None:
    rows = [run("unclipped", 0.85, 0.6), run("fair_cap@2", 0.85, 0.7), run("cut@0.4", 0.85, 0.65)]
    runs = both_parts(rows)
    for seed, figure in enumerate((0.5, 0.7, 0.9)):
        chosen = (runs["arm"] == "fair_cap@2") & (runs["seed"] == seed)
        runs.loc[chosen & (runs["part"] == "test"), "worst_cell_accuracy"] = figure
    sections = {section.heading: section for section in study([record(runs)]).sections}
    notes = sections["Setting by setting"].body[1]
    assert isinstance(notes, Notes)
    assert "a margin of 5 points cannot be resolved on Toy (± 70.3)" in notes.sentences[0]
    assert len(notes.sentences) == 1


def test_where_not_to_use_it_is_said(saved: Path) -> None:
    part = text(saved).partition("## Where fair clipping should not be used")[2].partition("##")[0]
    assert "better than doing nothing (unclipped) on 1 of 2 settings: Loss" in part
    assert "(unclipped) on 0 of 1 settings with logistic regression: none." in part
    assert "all three, on 1 of 2 settings: Loss" in part
    assert "NormCap: worse than label reweighting, thresholds, reweighting (worst cell)" in part
    assert "Gain" not in part


def test_the_page_is_escaped_and_offline(saved: Path) -> None:
    page = (saved / "study.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert page.count("<svg") == 2 * 3


def test_versions_command_and_seeds_are_on_the_page(saved: Path) -> None:
    part = text(saved).partition("## How it was made")[2]
    assert "fairclip study --smoke" in part
    assert "python 3, fairclip 0, fairlearn 0" in part
    assert "| 1,000 | 3 | 15 |" in part


@pytest.mark.parametrize("word", ["debias", "unbiased", "fair model", "compliant", "left behind"])
def test_it_promises_nothing(saved: Path, word: str) -> None:
    assert word not in text(saved).lower()


def test_few_seeds_are_no_result() -> None:
    rows = [run("unclipped", 0.85, 0.6), run("fair_cap@2", 0.85, 0.7), run("cut@0.4", 0.85, 0.6)]
    few, enough = (study([record(both_parts(rows, seeds))]).lead for seeds in (2, 10))
    assert "Only 2 seeds: this is a trial" in few
    assert "trial" not in enough


def test_nothing_finished_is_a_page_too(tmp_path: Path) -> None:
    page = study([], missing=8)
    page.save(tmp_path, stem="study")
    assert "goal open" in page.lead
    assert "No setting is finished." in text(tmp_path)


def test_a_family_that_was_not_run_has_no_word() -> None:
    rows: list[dict[str, Any]] = [
        run("unclipped", 0.85, 0.6),
        run("fair_cap@2", 0.85, 0.7),
        run("cut@0.4", 0.85, 0.65),
    ]
    runs = both_parts(rows)
    setting = Setting("few", "Few", "", {})
    found = Record(setting, runs, groups_of(runs), record(runs).environment)
    tables = study([found]).tables()
    words = next(t.frame for t in tables if t.caption.startswith("NormCap against each rival"))
    assert words.iloc[:, 0]["thresholds (group-blind)"] == "better"
    assert words.iloc[:, 0]["fairret"] == "not run"
    assert isinstance(words, pd.DataFrame)
