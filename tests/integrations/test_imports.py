"""Nobody who does not use a library pays for it, and who lacks one is told how to get it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fairclip

ROOT = Path(str(fairclip.__file__)).parent
LIBRARIES = {
    "accelerate",
    "keras",
    "lightning",
    "mlflow",
    "pytorch_lightning",
    "skorch",
    "tensorboard",
    "torchjd",
    "transformers",
    "wandb",
}


def _imports(path: Path) -> Iterator[str]:
    """Yield the first name of everything that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def test_these_libraries_are_imported_through_require_alone() -> None:
    for path in ROOT.rglob("*.py"):
        assert not LIBRARIES & {*_imports(path)}, path


def test_no_public_name_of_fairclip_loads_one_of_them() -> None:
    code = (
        "import sys, fairclip; [getattr(fairclip, name) for name in fairclip.__all__]; "
        f"print(*({LIBRARIES!r} & {{*sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
