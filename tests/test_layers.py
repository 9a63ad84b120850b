"""Stages import earlier stages only, and only what those make public."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# In the order of data flow: each may import what stands before it.
LAYERS = (
    "exceptions",
    "_arrays",
    "_extras",
    "_optimizers",
    "groups",
    "gradients",
    "capping",
    "clipping",
    "trace",
    "advice",
    "diagnosis",
    "clipper",
    "training",
    "comparison",
    "study",
    "integrations",
    "cli",
    "__main__",
)
# These import nothing of the layers, and no torch; from `comparison` on they may be imported.
APART = ("datasets", "metrics")


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every absolute import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            depth = len(path.relative_to(ROOT / "metrics").parts) if "metrics" in path.parts else 1
            assert node.level <= depth, f"{path}: a relative import from outside its package"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(layer: str) -> list[Path]:
    if layer == "metrics":
        return sorted((ROOT / "metrics").rglob("*.py"))
    folder = ROOT / "fairclip" / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _imported_layers(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (layer, full name) for what a file imports of fairclip."""
    for name in _imports(path):
        package, _, rest = name.partition(".")
        if package == "fairclip":
            yield rest.partition(".")[0], name


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_earlier_layers_only(layer: str) -> None:
    position = LAYERS.index(layer)
    allowed = {layer, *LAYERS[:position]}
    if position >= LAYERS.index("comparison"):
        allowed |= {*APART, "__version__"}
    for path in _files(layer):
        for imported, name in _imported_layers(path):
            assert imported in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("layer", APART)
def test_what_stands_apart_imports_no_layer_and_no_torch(layer: str) -> None:
    for path in _files(layer):
        for imported, name in _imported_layers(path):
            assert imported == layer, f"{path.relative_to(ROOT)} imports {name}"
        packages = {name.partition(".")[0] for name in _imports(path)}
        assert not packages & {"torch", "metrics"}, path


@pytest.mark.parametrize("layer", [*LAYERS, *APART])
def test_private_files_are_imported_by_their_own_package_only(layer: str) -> None:
    for path in _files(layer):
        for imported, name in _imported_layers(path):
            private = [part for part in name.split(".")[2:] if part.startswith("_")]
            assert not private or imported == layer, f"{path.relative_to(ROOT)} imports {name}"


def test_every_module_has_a_layer() -> None:
    modules = {path.stem for path in (ROOT / "fairclip").iterdir() if path.suffix == ".py"}
    packages = {path.parent.name for path in (ROOT / "fairclip").glob("*/__init__.py")}
    assert (modules - {"__init__"}) | packages | {"metrics"} == {*LAYERS, *APART}
