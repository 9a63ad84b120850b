import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairclip.metrics import Picture, Report, Section, Table, audit, neutralise_formulas, tradeoff
from tests.metrics._inputs import HOSTILE_NAMES, table_sample


class _Page(HTMLParser):
    """Collects tags, text, and what could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.numbers: list[float] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.loads.append(value or "")
            if name == "value" and tag == "data":
                self.numbers.append(float(value or "nan"))

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _hostile_report() -> Report:
    frame = pd.DataFrame(
        {HOSTILE_NAMES[0]: [0.25, np.nan], "n": [1234567, -3]},
        index=pd.Index(HOSTILE_NAMES[1:3], name=HOSTILE_NAMES[3]),
    )
    words = pd.DataFrame({"name": HOSTILE_NAMES})
    body: tuple[str | Table, ...] = (
        *HOSTILE_NAMES,
        Table(frame, HOSTILE_NAMES[0], "a"),
        Table(words, "Words.", "b"),
    )
    title, lead = HOSTILE_NAMES[0], HOSTILE_NAMES[6]
    return Report(title, lead, (Section(HOSTILE_NAMES[1], body),), {"x": np.float64("nan")})


def test_every_number_of_the_page_is_in_the_json(tmp_path: Path) -> None:
    sample = table_sample(600)
    found = audit(
        sample.y_true, sample.y_pred, sensitive_features=sample.features, y_score=sample.y_score
    )
    found.save(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["schema_version"] == 1
    in_json = [
        cell
        for table in content["tables"]
        for row in table["rows"]
        for cell in row
        if isinstance(cell, int | float) and not isinstance(cell, bool)
    ]
    assert _read(tmp_path / "report.html").numbers == in_json
    by_group = next(t for t in content["tables"] if t["name"] == "by_group")
    expected = found.by_group.reset_index()
    assert by_group["columns"] == expected.columns.tolist()
    assert by_group["rows"] == expected.to_numpy().tolist()


def test_csvs_hold_full_precision(tmp_path: Path) -> None:
    sample = table_sample(600)
    found = audit(sample.y_true, sample.y_pred, sensitive_features=sample.features)
    found.save(tmp_path, formats=("csv",))
    back = pd.read_csv(tmp_path / "by_group.csv", index_col=["sex", "race"])
    pd.testing.assert_frame_equal(back, found.by_group, rtol=0, atol=0)
    assert not (tmp_path / "report.html").exists()


def test_hostile_text_is_escaped_in_html(tmp_path: Path) -> None:
    _hostile_report().save(tmp_path)
    page = _read(tmp_path / "report.html")
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:,")) for link in page.loads)
    for name in HOSTILE_NAMES:
        assert name in page.text


def test_hostile_text_is_escaped_in_markdown(tmp_path: Path) -> None:
    _hostile_report().save(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<" not in text
    assert not re.search(r"(?<!\\)\[", text)  # no link
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4, 2}


def test_hostile_text_is_neutralised_in_csv(tmp_path: Path) -> None:
    _hostile_report().save(tmp_path)
    for name in ("a.csv", "b.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [c for c in cells if c[:1] in "=+@\t\r" and c != ""]
    assert "1234567" in (tmp_path / "a.csv").read_text()
    assert "-3" in (tmp_path / "a.csv").read_text()


def test_neutralising_keeps_numbers_and_the_input() -> None:
    frame = pd.DataFrame({"-a": ["+1", "b", None, -1.5], "b": [1, -2, 3, 4]})
    found = neutralise_formulas(frame)
    assert found["'-a"].tolist()[:2] == ["'+1", "b"]
    assert found["'-a"].tolist()[3] == -1.5
    assert found["b"].tolist() == [1, -2, 3, 4]
    assert frame.columns[0] == "-a"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.85612, "0.856"),
        (-0.5, "-0.500"),
        (0.0, "0.000"),
        (0.0001, "1e-04"),
        (12345.6, "12,345.600"),
        (1234567, "1,234,567"),
        (float("nan"), "n/a"),
        (None, "n/a"),
        (pd.NA, "n/a"),
        (float("inf"), "inf"),
        (True, "yes"),
        (np.int64(7), "7"),
        ("word", "word"),
    ],
)
def test_how_cells_are_printed(tmp_path: Path, value: Any, shown: str) -> None:
    frame = pd.DataFrame({"x": pd.Series([value], dtype=object)})
    Report("t", "l", (Section("s", (Table(frame, "c"),)),), {}).save(tmp_path, ("md",))
    assert (tmp_path / "report.md").read_text().splitlines()[-1] == f"| {shown} |"


def test_json_holds_no_nan(tmp_path: Path) -> None:
    data = {"a": [float("nan"), np.int64(1), {"b": pd.NA}], "c": pd.DataFrame({"d": [np.inf]})}
    Report("t", "l", (), data).save(tmp_path, ("json",), stem="x")
    content = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert content["a"] == [None, 1, {"b": None}]
    assert content["c"] == {"columns": ["d"], "rows": [["inf"]]}


def test_a_picture_has_its_table_under_it(tmp_path: Path) -> None:
    picture = Picture("<svg><title>x</title></svg>", "Caption.", pd.DataFrame({"y": [0.125]}))
    Report("t", "l", (Section("s", (picture,)),), {}).save(tmp_path)
    page = _read(tmp_path / "report.html")
    assert [tag for tag in page.tags if tag in ("svg", "figcaption", "details", "table")] == [
        "svg",
        "figcaption",
        "details",
        "table",
    ]
    assert "| 0.125 |" in (tmp_path / "report.md").read_text()


def test_a_page_is_the_same_bytes_again(tmp_path: Path) -> None:
    sample = table_sample(300)
    for folder in ("a", "b"):
        tradeoff(
            {"unclipped": sample.y_pred, "cap": 1 - sample.y_pred},
            sample.y_true,
            sensitive_features=sample.features,
            n_boot=99,
        ).save(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"report.html", "report.md", "report.json", "tradeoff.csv", "changes.csv"} < set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_hostile_names_pass_through_a_whole_audit(tmp_path: Path) -> None:
    groups = np.repeat(HOSTILE_NAMES, 10)
    y = np.tile([0, 1], len(groups) // 2)
    audit(y, y, sensitive_features={"<b>": groups}, n_boot=9).save(tmp_path)
    page = _read(tmp_path / "report.html")
    assert not {"script", "b"} & set(page.tags)
    assert all(link.startswith(("#", "data:,")) for link in page.loads)


def test_a_single_model_is_a_comparison_too(tmp_path: Path) -> None:
    found = tradeoff({"unclipped": [0, 1, 1]}, [0, 1, 0], sensitive_features=["a", "a", "b"])
    assert len(found.changes) == 0
    assert "report.html" in found.save(tmp_path)


def test_nothing_is_written_when_the_input_is_bad(tmp_path: Path) -> None:
    report = Report("t", "l", (), {"x": object()})
    with pytest.raises(ValueError, match=r"`formats` must be of .* got \['pdf'\]"):
        report.save(tmp_path / "new", ("html", "pdf"))
    assert not (tmp_path / "new").exists()


def test_bad_parts_are_refused() -> None:
    frame = pd.DataFrame({"n": [1]})
    with pytest.raises(ValueError, match="`name` must be made of letters"):
        Table(frame, "c", "../x")
    twice = Section("s", (Table(frame, "c", "a"), Table(frame, "c", "a")))
    with pytest.raises(ValueError, match="different names"):
        Report("t", "l", (twice,), {})
    with pytest.raises(ValueError, match=r"must not have the keys \['tables'\]"):
        Report("t", "l", (), {"tables": []})
