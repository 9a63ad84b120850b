"""The wheel holds every package and every data file, and works outside the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _settings() -> dict[str, dict[str, list[str]]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings: dict[str, dict[str, list[str]]] = tomllib.load(file)["tool"]["setuptools"]
    return settings


def _folders() -> dict[str, Path]:
    """Return the folder of every package, by its installed name."""
    found = {}
    for top, name in ((ROOT / "fairclip", "fairclip"), (ROOT / "metrics", "fairclip.metrics")):
        for init in top.rglob("__init__.py"):
            inside = init.parent.relative_to(top).parts
            found[".".join((name, *inside))] = init.parent
    return found


def test_the_package_list_is_complete() -> None:
    assert sorted(_settings()["packages"]) == sorted(_folders())


def test_every_data_file_is_packaged() -> None:
    patterns = _settings()["package-data"]
    for package, folder in _folders().items():
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in {".py", ".pyc", ".pyi"}:
                fits = [path.match(pattern) for pattern in patterns.get(package, [])]
                assert any(fits), f"{path.relative_to(ROOT)} would not be installed"


def test_the_stub_of_metrics_is_one_line() -> None:
    stub = (ROOT / "fairclip" / "metrics.pyi").read_text(encoding="utf-8")
    assert stub.strip() == "from metrics import *"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the unpacked wheel, built from a copy of the sources."""
    pytest.importorskip("build", reason="builds the wheel")
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("fairclip", "metrics"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-data"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path_factory.mktemp("site")
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.mark.slow
def test_the_wheel_holds_every_file(site: Path) -> None:
    for package, folder in _folders().items():
        installed = site.joinpath(*package.split("."))
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in {".pyc", ".pyi"}:
                assert (installed / path.name).is_file(), f"{package}: {path.name}"
    assert not (site / "fairclip" / "metrics.pyi").exists()
    licences = {path.name for path in site.glob("*.dist-info/licenses/*")}
    assert licences == {"LICENSE", "LICENSE-data"}


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    code = (
        "import fairclip, fairclip.metrics, fairclip.datasets\n"
        "from importlib.metadata import entry_points\n"
        "for name in fairclip.__all__: getattr(fairclip, name)\n"
        "fairclip.datasets.load_german()\n"
        "(script,) = entry_points(group='console_scripts', name='fairclip')\n"
        "script.load()\n"
        "print(fairclip.__file__, fairclip.metrics.__file__, sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(site) for line in done.stdout.split())
