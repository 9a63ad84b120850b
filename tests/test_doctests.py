"""The examples in the docstrings of the installed packages run and are true."""

import doctest
import importlib
import pkgutil

import pytest

import fairclip
import fairclip.metrics


def _modules() -> list[str]:
    names = {
        module.name
        for package in (fairclip, fairclip.metrics)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    }
    return sorted({"fairclip", "fairclip.metrics"} | names - {"fairclip.__main__"})


# MLflow's tables are declared with a loader that SQLAlchemy gives up.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning")  # Lightning
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning
@pytest.mark.parametrize("name", _modules())
def test_examples(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))  # an example may write files
    report: list[str] = []
    runner = doctest.DocTestRunner()
    module = importlib.import_module(name)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    n_examples = sum(
        len(found.examples)
        for name in _modules()
        for found in finder.find(importlib.import_module(name), name)
    )
    assert n_examples > 50
