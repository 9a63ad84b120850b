"""The notebooks run from top to bottom, and hold nothing of a run."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# Its demonstrations are tests of their own, which measure them at the settings beside each.
WITHOUT_PARAMETERS = {"02_clipping"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


@each
@pytest.mark.slow
def test_the_notebook_runs_without_a_warning(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},  # a cell may write files
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
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
    assert len(cells) == (path.stem not in WITHOUT_PARAMETERS)
    for statement in (line for cell in cells for line in ast.parse(cell.source).body):
        assert isinstance(statement, ast.Assign)
        (target,) = statement.targets
        assert isinstance(target, ast.Name)
        assert target.id.isupper()
        ast.literal_eval(statement.value)


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
