"""Every public name exists, and `import fairclip` loads next to nothing."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fairclip
import fairclip.metrics

HEAVY = ("torch", "pandas", "sklearn", "numpy", "scipy", "matplotlib", "fairlearn", "typer")


def _public_modules() -> list[str]:
    names = [
        module.name
        for package in (fairclip, fairclip.metrics)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    public = {name for name in names if not any(part.startswith("_") for part in name.split("."))}
    return sorted({"fairclip", "fairclip.metrics"} | public)


@pytest.mark.parametrize("name", _public_modules())
def test_every_name_in_all_exists_once(name: str) -> None:
    module = importlib.import_module(name)
    for public in module.__all__:
        assert getattr(module, public) is not None
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("name", ["fairclip", "fairclip.groups"])
def test_lazy_names_are_the_ones_that_type_checkers_see(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fairclip")
        for alias in node.names
    }
    assert seen == set(module.__all__)


def test_a_lazy_name_is_the_one_of_its_module() -> None:
    tree = ast.parse(Path(str(fairclip.__file__)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fairclip"):
            for alias in node.names:
                home = importlib.import_module(str(node.module))
                assert getattr(fairclip, alias.name) is getattr(home, alias.name)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    for module in (fairclip, importlib.import_module("fairclip.groups")):
        with pytest.raises(AttributeError, match="has no attribute 'GroupEncodr'"):
            module.GroupEncodr  # noqa: B018


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_fairclip_loads_nothing_heavy() -> None:
    assert _loaded_by("import fairclip; dir(fairclip)") == set()


@pytest.mark.parametrize("module", ["fairclip.metrics", "fairclip.datasets", "fairclip.cli"])
def test_what_needs_no_torch_loads_none(module: str) -> None:
    assert not _loaded_by(f"import {module}") & {"torch", "fairlearn"}
