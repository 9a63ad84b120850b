"""A report opened in a real browser, without a network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, sync_playwright

from fairclip.metrics import tradeoff

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a comparison with many groups, a hostile one among them."""
    rng = np.random.default_rng(0)
    names = ["Amer-Indian-Eskimo", "Asian-Pac-Islander", "Black", "<script>alert(1)</script>"]
    features = pd.DataFrame(
        {"sex": rng.choice(["female", "male"], 3000), "race": rng.choice(names, 3000)}
    )
    y = rng.integers(0, 2, 3000)
    arms = {
        arm: np.where(rng.random(3000) < share, y, 1 - y)
        for arm, share in (("unclipped", 0.85), ("max_ratio=2", 0.83), ("max_ratio=1", 0.8))
    }
    folder = tmp_path_factory.mktemp("report")
    tradeoff(arms, y, sensitive_features=features, n_boot=99).save(folder)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_is_quiet_offline_and_fits(
    browser: Browser, folder: Path, width: int, scheme: Any
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    url = (folder / "report.html").as_uri()
    page.goto(url)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert [asked for asked in requests if asked not in (url, "data:,")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_numbers_shown_are_those_of_the_json(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    shown = page.eval_on_selector_all(
        "table",
        "all => all.map(one => ({caption: one.caption.textContent, rows: [...one.tBodies[0].rows]"
        ".map(row => [...row.cells].map(cell => [cell.textContent, cell.querySelector('data')"
        "?.value ?? null]))}))",
    )
    page.close()
    tables = json.loads((folder / "report.json").read_text())["tables"]
    assert [table["caption"] for table in shown] == [table["caption"] for table in tables]
    for table, expected in zip(shown, tables, strict=True):
        for row, values in zip(table["rows"], expected["rows"], strict=True):
            for (text, number), value in zip(row, values, strict=True):
                if number is not None:
                    assert float(number) == value
                    assert float(text.replace(",", "")) == pytest.approx(value, abs=5.1e-4)
                elif not isinstance(value, bool):
                    assert text == ("n/a" if value is None else value)


def test_the_page_has_landmarks_and_captions(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    for selector in ("header", "nav", "main", "footer", "h1"):
        assert page.locator(selector).count() == 1
    assert page.locator("table").count() == page.locator("table > caption").count()
    assert page.locator("figure").count() == page.locator("figure details table").count()
    assert page.locator("script").count() == 0
    page.close()
