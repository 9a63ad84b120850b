"""The Python blocks of the README run, in order, in one namespace."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"@@\w", README.read_text(encoding="utf-8"))


def test_the_study_is_quoted_as_it_is() -> None:
    page = (README.parent / "docs" / "study" / "study.md").read_text(encoding="utf-8")
    lead = page.split("\n\n")[1]
    quoted = re.search(r"(?:^> .*\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert quoted is not None
    assert re.sub(r"^> ", "", quoted[0], flags=re.MULTILINE).split() == lead.split()


def run_python_blocks(page: Path) -> int:
    """Run the blocks of a page in order, in one namespace, and return how many there are."""
    text = page.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # Empty lines in front make tracebacks show the page's own line numbers.
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
    return len(blocks)


@pytest.mark.slow
def test_every_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a block may write files
    assert run_python_blocks(README)
