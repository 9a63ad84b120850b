"""The site builds without a warning, is complete, stands alone, and its Python blocks run."""

import importlib
import inspect
import pkgutil
import posixpath
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fairclip
import fairclip.integrations
from fairclip.comparison import Settings
from fairclip.comparison._arms import make_arm
from tests.test_readme import run_python_blocks

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MODULES = (
    "fairclip",
    *(f"fairclip.{name}" for name in ("clipping", "comparison", "datasets", "metrics", "training")),
    *(f"fairclip.{name}" for name in ("gradients", "capping", "trace", "advice", "diagnosis")),
    *(
        module.name
        for module in pkgutil.iter_modules(fairclip.integrations.__path__, "fairclip.integrations.")
    ),
)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("myst_nb", reason="builds the site")
    _build(tmp_path)
    pages = {path: _Page() for path in tmp_path.rglob("*.html")}
    for path, page in pages.items():
        page.feed(path.read_text(encoding="utf-8"))
    assert len(pages) > 15
    _check_links(pages)
    _check_that_nothing_is_loaded_from_elsewhere(tmp_path, pages)
    documented = _documented(tmp_path)
    _check_that_every_public_name_is_in(documented)
    _check_that_every_method_is_in(documented)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_python_blocks_of_a_page_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a block may write files
    run_python_blocks(path)


def test_there_are_python_blocks() -> None:
    assert any("```python\n" in path.read_text(encoding="utf-8") for path in PAGES)


def test_the_guide_has_a_line_for_every_kind_of_arm() -> None:
    with pytest.raises(ValueError, match="there are unclipped") as error:
        make_arm("nothing", Settings())
    kinds = str(error.value).partition("there are ")[2].rstrip(".").split(", ")
    assert {name.partition("@")[0] for name in _arms_of_the_guide()} == {
        kind.replace("<aggregator>", "UPGrad") for kind in kinds
    }


def test_the_arms_of_the_guide_are_what_it_says_without_a_value_too() -> None:
    pytest.importorskip("torchjd", reason="one of the arms")
    names = _arms_of_the_guide()
    arms = {name: make_arm(name, Settings()) for name in names}
    for name in names[names.index("group_dro@0.01") :]:
        kind = name.partition("@")[0]
        assert replace(make_arm(kind, Settings()), name=name) == arms[name]


def _arms_of_the_guide() -> list[str]:
    text = (DOCS / "guide.md").read_text(encoding="utf-8")
    table = text.partition("| arm | what it is |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\S+)` \|", table, flags=re.MULTILINE)


def _build(html: Path) -> None:
    """Build the site as `make docs` does, but for the notebooks' cells, which have a test."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    options = ["--define", "nb_execution_mode=off"]
    done = subprocess.run(
        [*command, *options, str(DOCS), str(html)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]


class _Page(HTMLParser):
    """Collects anchors, links, and what a browser would load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found["id"]} if "id" in found else set()
        if "href" in found and tag == "a":
            self.links.append(found["href"])
        elif "href" in found or "src" in found:
            self.loads.append(found.get("href") or found["src"])


def _check_links(pages: dict[Path, _Page]) -> None:
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            url = urlsplit(link)
            if url.scheme:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path.name}: {link}"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].ids, f"{path.name}: {link}"


def _check_that_nothing_is_loaded_from_elsewhere(html: Path, pages: dict[Path, _Page]) -> None:
    for path, page in pages.items():
        for loaded in page.loads:
            url = urlsplit(loaded)
            assert url.scheme in ("", "data"), f"{path.name} loads {loaded}"
            assert not url.netloc, f"{path.name} loads {loaded}"
    for style in html.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", text), style


def _documented(html: Path) -> set[str]:
    inventory = importlib.import_module("sphinx.util.inventory").InventoryFile
    with (html / "objects.inv").open("rb") as file:
        found = inventory.load(file, "", posixpath.join)
    return {name for kind, names in found.items() if kind.startswith("py:") for name in names}


def _check_that_every_public_name_is_in(documented: set[str]) -> None:
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            at_top = getattr(fairclip, name) if name in fairclip.__all__ else None
            home = "fairclip" if at_top is getattr(module, name) else module_name
            assert f"{home}.{name}" in documented, f"{module_name}.{name}"


def _check_that_every_method_is_in(documented: set[str]) -> None:
    classes = {name: getattr(fairclip, name) for name in fairclip.__all__}
    for name, found in classes.items():
        for method, function in inspect.getmembers(found, inspect.isroutine):
            ours = (getattr(function, "__module__", None) or "").startswith("fairclip.")
            if inspect.isclass(found) and ours and not method.startswith("_"):
                assert f"fairclip.{name}.{method}" in documented, f"{name}.{method}"
