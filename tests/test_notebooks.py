"""The notebooks run from top to bottom, and hold nothing of a run."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from fairclip.study import study_settings
from tests.study._toy_study import write_toy_study

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def run(notebook: Any, folder: Path) -> list[Any]:
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},  # a cell may write files
    ).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


@each
@pytest.mark.slow
def test_the_notebook_runs_without_a_warning(path: Path, tmp_path: Path) -> None:
    outputs = run(read(path), tmp_path)
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@each
def test_the_notebook_holds_nothing_of_a_run(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata == METADATA
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@each
def test_one_cell_holds_the_settings_as_plain_values(path: Path) -> None:
    cells = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", ())]
    (cell,) = cells
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        (target,) = statement.targets
        assert isinstance(target, ast.Name)
        assert target.id.isupper()
        ast.literal_eval(statement.value)


def test_the_numbers_have_no_gap() -> None:
    numbers = [path.stem.partition("_")[0] for path in NOTEBOOKS]
    assert numbers == [f"{number:02d}" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(numbers) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("has_tables", [True, False])
def test_the_trade_offs_read_the_study_if_there_is_one(has_tables: bool, tmp_path: Path) -> None:
    if has_tables:
        write_toy_study(tmp_path)
    notebook = read(next(path for path in NOTEBOOKS if path.stem == "04_trade_offs"))
    headings = [cell.source.partition("\n")[0] for cell in notebook.cells]
    own, study = (headings.index(f"## {name}") for name in ("A small comparison", "The study"))
    notebook.cells = notebook.cells[:own] + notebook.cells[study:]  # without the training
    notebook.cells[1].source += f"\nSTUDY = {str(tmp_path)!r}"
    outputs = run(notebook, tmp_path)
    said = "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert f"{2 * has_tables} of 8 settings of the study are here" in said
    assert ("There are no tables yet" in said) == (not has_tables)
    first, second = (setting.title for setting in study_settings()[:2])
    helps = f"better than all three in 2 of 4 pictures: {first} (worst cell); {first} (equ"
    assert (helps in said) == has_tables
    assert (f"either picture: {second}." in said) == has_tables
