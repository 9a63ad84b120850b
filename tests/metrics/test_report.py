import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairclip.metrics import (
    Notes,
    Picture,
    Report,
    Section,
    Table,
    audit,
    neutralise_formulas,
    plot_changes,
    responsible_use,
    to_svg,
    tradeoff,
)
from tests.metrics._inputs import HOSTILE_NAMES, table_sample

HEBREW = "\u05d2\u05d9\u05dc 5"


class _Page(HTMLParser):
    """Collects tags, text, and what could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.numbers: list[float] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "aria-labelledby") and tag != "link":
                self.references.append((value or "").removeprefix("#"))
            self.references += re.findall(r"url\(#(.*?)\)", value or "")
            if name == "value" and tag == "data":
                self.numbers.append(float(value or "nan"))

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _page_of(folder: Path, *body: str | Notes | Table | Picture) -> str:
    report = Report("t", "l", (Section("s", body),), {})
    return report.save(folder, ("html",))["report.html"].read_text(encoding="utf-8")


def _lines(path: Path) -> list[str]:
    """Return the lines of a Markdown report up to what ends every report."""
    body, end, _ = path.read_text(encoding="utf-8").partition("\n\n## Before you act on this\n")
    assert end
    return body.splitlines()


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


def test_numbers_of_mixed_columns_are_kept(tmp_path: Path) -> None:
    frame = pd.DataFrame({"value": [1 / 3, "word", 10**20, True, pd.Timestamp("2020-02-03"), b"x"]})
    text = _page_of(tmp_path, Table(frame, "c"))
    assert f'<td><data value="{1 / 3!r}">0.333</data></td>' in text
    assert '<td><data value="100000000000000000000">' in text
    assert "<td>yes</td>" in text
    assert "<td>2020-02-03 00:00:00</td>" in text


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
    assert "@" not in text  # no mention
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
        (-0.0, "0.000"),
        (0.0004321, "0.0004"),
        (-0.00001234, "-1.2e-05"),
        (1e18, "1.0e+18"),
        (12345.6, "12,345.600"),
        (1234567, "1,234,567"),
        (float("nan"), "n/a"),
        (None, "n/a"),
        (pd.NA, "n/a"),
        (float("inf"), "inf"),
        (True, "yes"),
        (np.int64(7), "7"),
        ("word", "word"),
        ("", "(blank)"),
        (" ", "(blank)"),
        ("a\x00\u202eb", "a\u2400\ufffdb"),
    ],
)
def test_how_cells_are_printed(tmp_path: Path, value: Any, shown: str) -> None:
    frame = pd.DataFrame({"x": pd.Series([value], dtype=object)})
    Report("t", "l", (Section("s", (Table(frame, "c"),)),), {}).save(tmp_path, ("md",))
    assert _lines(tmp_path / "report.md")[-1] == f"| {shown} |"


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
        "figcaption",
        "svg",
        "details",
        "table",
        "details",  # the page on responsible use
    ]
    assert "| 0.125 |" in (tmp_path / "report.md").read_text()


def test_ids_are_of_one_picture_each_and_lead_to_it(tmp_path: Path) -> None:
    changes = pd.DataFrame({"change": [0.1], "low": [0.0], "high": [0.2]}, index=["a"])
    svg = to_svg(plot_changes(changes).figure)
    pictures = (Picture(svg, "One.", changes), Picture(svg, "Two.", changes))
    page = _Page()
    page.feed(_page_of(tmp_path, *pictures))
    assert len(page.ids) > 8
    assert len(set(page.ids)) == len(page.ids)
    assert {"s1-1", "s1-2"} < set(page.references)
    assert set(page.references) <= set(page.ids)


def test_a_label_that_looks_like_an_id_stays_as_it_is(tmp_path: Path) -> None:
    svg = (
        '<svg><defs><path id="p"/></defs><use xlink:href="#p" style="fill: url(#p)" data-id="p"/>'
        "<text>id=\"p\" url(#p) href='#p'</text></svg>"
    )
    text = _page_of(tmp_path, Picture(svg, "c", pd.DataFrame({"x": [1]})))
    assert (
        '<svg><defs><path id="s1-1-p"/></defs>'
        '<use xlink:href="#s1-1-p" style="fill: url(#s1-1-p)" data-id="p"/>'
        "<text>id=\"p\" url(#p) href='#p'</text></svg>"
    ) in text


def test_sentences_of_a_list_stand_in_every_format(tmp_path: Path) -> None:
    body = ("Alone.", Notes(("First & last.", "_Second_.")))
    Report("t", "l", (Section("s", body),), {}).save(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<ul>\n<li>First &amp; last.</li>\n<li>_Second_.</li>\n</ul>" in html
    assert "\n- First &amp; last.\n- \\_Second\\_.\n" in (tmp_path / "report.md").read_text()
    sections = json.loads((tmp_path / "report.json").read_text())["sections"]
    assert sections == [{"heading": "s", "sentences": ["Alone.", "First & last.", "_Second_."]}]


def test_a_report_ends_with_what_to_think_of_before_acting(tmp_path: Path) -> None:
    Report("t", "l", (), {}).save(tmp_path, ("html", "md"))
    html, text = _read(tmp_path / "report.html"), (tmp_path / "report.md").read_text("utf-8")
    whole = responsible_use()
    for line in re.findall(r"^- (.*)$", whole.partition("\n## ")[0], flags=re.MULTILINE):
        assert f"\n- {line}\n" in text
        assert line in html.text
    said = re.findall(r"^## (.*)$|\]\((.*?)\)", whole, flags=re.MULTILINE)
    assert len(said) > 20
    assert all((heading or url) in html.text for heading, url in said)
    assert "responsible-use" in html.ids
    assert "responsible-use" in html.references


def test_names_from_right_to_left_do_not_turn_a_sentence(tmp_path: Path) -> None:
    text = _page_of(tmp_path, f"{HEBREW}: 0.25, {HEBREW[:3]} {HEBREW[:3]}=<0.5")
    word = HEBREW[:3]
    assert f"<p><bdi>{word}</bdi> 5: 0.25, <bdi>{word} {word}</bdi>=&lt;0.5</p>" in text


def test_what_turns_or_hides_text_is_shown_as_such(tmp_path: Path) -> None:
    name = "a\u202eb\x07c"
    frame = pd.DataFrame({name: [name]})
    body = (name, Table(frame, name, "x"), Notes((name,)))
    Report(f"{name}\ud800", name, (Section(name, body),), {}).save(tmp_path)
    for file in ("report.html", "report.md"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert "a\ufffdb\u2407c" in text
        assert "\u202e" not in text
        assert "\x07" not in text
    assert json.loads((tmp_path / "report.json").read_text())["title"] == f"{name}\ud800"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("1. First", "1\\. First"),
        ("- x", "\\- x"),
        ("---", "\\---"),
        (">x", "\\>x"),
        ("@a #1", "&#64;a \\#1"),
        ("-0.5 to 1.5", "-0.5 to 1.5"),
        ("=> x_y _z_", "=> x_y \\_z\\_"),
        ("http://a.b and www.a.b", "http&#58;//a.b and www&#46;a.b"),
        ("$x$ ~a~ <b> &amp;", "\\$x\\$ \\~a\\~ &lt;b> &amp;amp;"),
    ],
)
def test_markdown_of_a_sentence_is_the_sentence(tmp_path: Path, text: str, escaped: str) -> None:
    Report("t", "l", (Section("s", (text,)),), {}).save(tmp_path, ("md",))
    assert _lines(tmp_path / "report.md")[-1] == escaped


def test_long_names_are_cut_and_can_be_told_apart(tmp_path: Path) -> None:
    one, other = "x" * 5000 + "1" + "y" * 4999, "x" * 5000 + "2" + "y" * 4999
    frame = pd.DataFrame({one: [1.0, 2.0], "name": [one, other]})
    body = (one, Table(frame, other, "t"))
    Report(one, other, (Section(one, body),), {}).save(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(html) < 30_000
    shown = re.findall(r"<td>(x.*?y)</td>", html)
    assert len(set(shown)) == 2
    assert all("(10,000 characters, SHA-256" in name for name in shown)
    assert len((tmp_path / "report.md").read_text()) < 10_000
    table = json.loads((tmp_path / "report.json").read_text())["tables"][0]
    assert table["columns"][0] == one
    assert [row[1] for row in table["rows"]] == [one, other]
    assert pd.read_csv(tmp_path / "t.csv")["name"].tolist() == [one, other]


def test_odd_tables_are_shown(tmp_path: Path) -> None:
    repeated = pd.DataFrame(
        [[1, "word", np.nan, None], [2.5, 3, np.nan, None]],
        columns=["n", "n", "lost", ""],
        index=pd.Index(["a", "b"], name="n"),
    )
    tables = (
        Table(repeated, "Repeated.", "a"),
        Table(pd.DataFrame({"n": []}), "Rowless.", "b"),
        Table(pd.DataFrame(index=pd.Index([], name="x")), "Empty.", "c"),
        Table(pd.DataFrame(), "Nothing.", "d"),
    )
    report = Report("t", "l", (Section("s", tables),), {})
    files = report.save(tmp_path)
    html = files["report.html"].read_text(encoding="utf-8")
    assert re.findall(r"<t[hd]( scope=\"col\")?( class=\"number\")?>(\w*)</t[hd]>\n", html) == [
        (' scope="col"', "", "n"),
        (' scope="col"', ' class="number"', "n"),
        (' scope="col"', "", "n"),
        (' scope="col"', ' class="number"', "lost"),
        ("", ' class="number"', ""),
    ]
    assert html.count("There are no rows.") == 3
    markdown = files["report.md"].read_text(encoding="utf-8")
    assert "| b | 2.500 | 3 | n/a | n/a |" in markdown
    assert markdown.count("There are no rows.") == 3
    found = json.loads(files["report.json"].read_text())["tables"][0]
    assert found["columns"] == ["n", "n", "n", "lost", ""]
    assert found["rows"] == [["a", 1, "word", None, None], ["b", 2.5, 3, None, None]]


def test_long_tables_are_closed_and_say_where_they_are_whole(tmp_path: Path) -> None:
    long = pd.DataFrame({"n": range(500)})
    text = _page_of(
        tmp_path,
        Table(long, "Long.", "long"),
        Picture("<svg></svg>", "Many.", long),
        Picture("<svg></svg>", "Few.", long[:25]),
    )
    summaries = re.findall(r"<details( open)?><summary>(.*?)</summary>", text)
    assert [opened for opened, _ in summaries] == ["", "", " open", ""]
    assert summaries[0][1].startswith("Long. (500 rows)")
    assert "see long.csv or the JSON file" in summaries[0][1]
    assert "see the JSON file" in summaries[1][1]


def test_tables_without_end_are_cut_in_the_page_alone(tmp_path: Path) -> None:
    table = Table(pd.DataFrame({"n": range(10_002)}), "Long.", "long")
    files = Report("t", "l", (Section("s", (table,)),), {}).save(tmp_path)
    html = files["report.html"].read_text(encoding="utf-8")
    assert html.count("<data ") == 10_000
    assert "2 more rows are in long.csv and the JSON file." in html
    assert _lines(files["report.md"])[-2:] == [
        "",
        "2 more rows are in the JSON file.",
    ]
    assert len(json.loads(files["report.json"].read_text())["tables"][0]["rows"]) == 10_002
    assert len(pd.read_csv(files["long.csv"])) == 10_002


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
    with pytest.raises(ValueError, match=r"must not have the keys \['lead', 'tables'\]"):
        Report("t", "l", (), {"tables": [], "lead": ""})
