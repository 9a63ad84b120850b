"""The study's page in docs/study belongs to the tables beside it, and the site shows both."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from fairclip.study import study_settings
from fairclip.study._families import BASELINE
from fairclip.study._fronts import hypervolumes
from fairclip.study._verdicts import POINTS, verdicts
from fairclip.study._views import VIEWS, View
from tests.study._toy_study import write_toy_study

DOCS = Path(__file__).parents[2] / "docs"
TITLES = {setting.name: setting.title for setting in study_settings()}
NAMES = {title: name for name, title in TITLES.items()}
KEYS = ["setting", "view", "family", "rival"]


@pytest.fixture(scope="module", params=["toy", "committed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "toy":
        out = tmp_path_factory.mktemp("study")
        write_toy_study(out)
        return out
    if not (DOCS / "study" / "study.md").exists():
        pytest.skip("docs/study holds no page yet")
    return DOCS / "study"


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def test_the_words_of_the_page_are_those_of_the_table(folder: Path) -> None:
    page = (folder / "study.md").read_text(encoding="utf-8")
    said: dict[tuple[str, ...], str] = {}
    for family, view, table in re.findall(
        r"^(\S+)(?: \(exploratory\))? against each rival, picture: ([\w ]+)\.\n\n((?:\|.*\n)+)",
        page,
        re.MULTILINE,
    ):
        header, _, *rows = [
            [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()
        ]
        titles = [re.sub(r" \(± [\d.]+\)$", "", title) for title in header[1:]]
        for rival, *words in rows:
            said |= {
                (title, view, family, rival.removesuffix(" (group-blind)")): re.sub(
                    r" \(\d+ arms\)$", "", word
                )
                for title, word in zip(titles, words, strict=True)
            }
    table = read(folder, "verdicts").assign(setting=lambda t: t["setting"].map(TITLES))
    expected = table.set_index(KEYS)["verdict"].to_dict()
    assert {key: word for key, word in said.items() if word != "not run"} == expected


def areas(folder: Path) -> Iterator[tuple[str, View, pd.DataFrame]]:
    """Yield setting, view and the hypervolumes that the committed fronts have."""
    titles = {view.title: view for view in VIEWS}
    for (setting, title), rows in read(folder, "fronts").groupby(["setting", "view"]):
        view = titles[str(title)]
        own = rows.rename(columns={"figure": view.metric})
        baseline = own[own["family"] == BASELINE].assign(part="test")
        yield str(setting), view, hypervolumes(own, baseline, view)


def test_the_fronts_give_the_words_again(folder: Path) -> None:
    committed, found = read(folder, "verdicts").set_index(KEYS), []
    for setting, view, volumes in areas(folder):
        same = committed.index.get_level_values("setting") == setting
        overlap = committed.loc[same, "test_over_train"].iloc[0]
        again = verdicts(volumes, overlap)
        found.append(again.assign(setting=setting, view=view.title))
    again = pd.concat(found).set_index(KEYS).loc[committed.index]
    assert again["verdict"].equals(committed["verdict"])
    figures = ["points", "points_low", "points_high"]
    pd.testing.assert_frame_equal(again[figures], committed[figures], rtol=0, atol=0.01)


def test_the_fronts_give_the_gains_again(folder: Path) -> None:
    page = (folder / "study.md").read_text(encoding="utf-8")
    gains = {
        (setting, view.title): volumes.groupby("family")["hypervolume"].mean() * POINTS
        for setting, view, volumes in areas(folder)
    }
    n_found = 0
    for view, table in re.findall(
        r"^Points gained over doing nothing .*picture: ([\w ]+)\.\n\n((?:\|.*\n)+)",
        page,
        re.MULTILINE,
    ):
        header, _, *rows = [
            [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()
        ]
        for family, *shown in rows:
            for title, figure in zip(header[1:], shown, strict=True):
                own = gains[NAMES[title], view]
                if figure != "not run":
                    assert float(figure) == pytest.approx(own[family] - own[BASELINE], abs=0.06)
                    n_found += 1
    assert n_found


def test_the_pictures_show_figures_of_the_arms(folder: Path) -> None:
    arms = read(folder, "arms").set_index(["setting", "arm"])
    for metric, rows in read(folder, "pictures").groupby("metric"):
        own = arms.loc[list(zip(rows["setting"], rows["arm"], strict=True))]
        for shown, column in (("accuracy", "accuracy_mean"), ("figure", f"{metric}_mean")):
            assert rows[shown].to_numpy() == pytest.approx(own[column].to_numpy(), abs=1e-5)


def test_the_command_on_the_page_is_ours(folder: Path) -> None:
    made = (folder / "study.md").read_text(encoding="utf-8").partition("## How it was made")[2]
    header, _, *rows = re.findall(r"^\|.*", made.partition("\n## ")[0], re.MULTILINE)
    column = header.split(" | ").index("command")
    assert rows
    for row in rows:
        assert row.split(" | ")[column].startswith("fairclip study")


def _study_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_pages", DOCS / "_ext" / "study_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_the_answer_and_two_pictures_for_each_setting(folder: Path) -> None:
    pages = _study_pages().make_pages(folder)
    lead = (folder / "study.md").read_text(encoding="utf-8").split("\n\n")[1]
    answer = pages.pop("answer")
    assert answer.startswith(lead)
    assert "## Where fair clipping should not be used" in answer
    finished = set(read(folder, "verdicts")["setting"])
    assert set(pages) == finished
    for name, page in pages.items():
        assert page.startswith(f"# {TITLES[name]}\n")
        assert page.count("<svg role=") == len(VIEWS)
        assert f"\npages/{name}\n" in answer


def test_before_the_study_the_site_says_so(tmp_path: Path) -> None:
    write = _study_pages().write_study_pages
    assert write(tmp_path)
    assert not write(tmp_path)
    assert "not been run" in (tmp_path / "pages" / "answer.md").read_text(encoding="utf-8")
