"""The folder of a run: built under another name, and renamed when it is whole."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairclip.comparison._environment import NOT_INSTALLED
from fairclip.comparison._outcome import write_whole
from fairclip.comparison._settings import Settings

_CONFIG = "config.toml"
_ENVIRONMENT = "environment.json"
_KIND = "fairclip compare"
# The name of an arm says all of it but what the cap's other settings say.
_MAY_DIFFER = {"data", "arms", "rivals", "max_ratio", "within", "quick", "seeds", "select"}


@dataclass(frozen=True)
class RunFolder:
    """Where a run is written to.

    Attributes:
        final: Where it ends up.
        work: Where it is built; what is in there survives an interruption.
    """

    final: Path
    work: Path

    def discard(self) -> None:
        """Remove the work."""
        shutil.rmtree(self.work)

    def finish(self) -> None:
        """Put the work in its final place, instead of an earlier run."""
        aside = Path(tempfile.mkdtemp(prefix=f".{self.final.name}.", dir=self.final.parent))
        for inputs in self.work.glob("tasks/inputs__*"):
            inputs.unlink()  # large, and made again where they are missed
        if self.final.exists():
            self.final.rename(aside / "earlier")
        self.work.rename(self.final)
        shutil.rmtree(aside)


def open_folder(
    out: Path, settings: Settings, environment: dict[str, Any], *, resume: bool, overwrite: bool
) -> RunFolder:
    """Check that ``out`` may be written, and make or find the folder of the work.

    Raises:
        OSError: If the folder cannot be made.
        ValueError: If something else is there, or a run that may not be touched.
    """
    out = out.resolve()
    folder = RunFolder(out, out.with_name(f"{out.name}.partial"))
    for path in (folder.final, folder.work):
        if path.exists() and not _is_run(path):
            raise ValueError(f"{path} exists and is not a run of fairclip: choose another `out`.")
    grows = resume and folder.final.exists() and not folder.work.exists()
    if grows:
        _check_same(folder.final, settings, environment)
    elif resume and folder.work.exists():
        _check_same(folder.work, settings, environment)
        for stray in folder.work.glob("*/.*"):
            stray.unlink()  # half-written when the run was interrupted
        _describe(folder.work, settings, environment)
        return folder
    if folder.final.exists() and not (overwrite or grows):
        raise ValueError(
            f"{out} is a finished run: choose another `out`, `resume` it to add arms or seeds, or "
            "`overwrite` it."
        )
    if folder.work.exists() and not overwrite:
        raise ValueError(f"{folder.work} is an unfinished run: `resume` it, or `overwrite` it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    new.chmod(0o755)  # mkdtemp's folder is for its owner alone
    if grows:
        for part in ("predictions", "tasks"):
            # Links, as these files are replaced as a whole: the finished run stands meanwhile.
            shutil.copytree(folder.final / part, new / part, copy_function=os.link)
    _describe(new, settings, environment)
    if folder.work.exists():
        shutil.rmtree(folder.work)
    new.rename(folder.work)
    return folder


def _describe(folder: Path, settings: Settings, environment: dict[str, Any]) -> None:
    described = json.dumps({"kind": _KIND, **environment}, indent=2) + "\n"
    for name, text in {_CONFIG: settings.to_toml(), _ENVIRONMENT: described}.items():
        write_whole(folder / name, text.encode())


def _is_run(path: Path) -> bool:
    try:
        environment = json.loads((path / _ENVIRONMENT).read_bytes())
    except (OSError, ValueError):
        return False
    return (
        isinstance(environment, dict)
        and environment.get("kind") == _KIND
        and all(isinstance(environment.get(part), dict) for part in ("data", "versions", "rivals"))
    )


def _check_same(work: Path, settings: Settings, environment: dict[str, Any]) -> None:
    """Raise if the run in ``work`` was started on something else."""
    before = Settings.read(work / _CONFIG)
    earlier = json.loads((work / _ENVIRONMENT).read_bytes())
    different = [
        f"`{name}` was {value}, now {getattr(settings, name)}"
        for name, value in asdict(before).items()
        if name not in _MAY_DIFFER and value != getattr(settings, name)
    ]
    if earlier["data"]["sha256"] != environment["data"]["sha256"]:
        different.append("the data are others")
    if earlier["versions"] != environment["versions"]:
        different.append("the versions are others")
    for package, version in environment["rivals"].items():
        if earlier["rivals"].get(package, version) not in {version, NOT_INSTALLED}:
            different.append(f"{package} was {earlier['rivals'][package]}, now {version}")
    if different:
        raise ValueError(
            f"{work} was started differently ({'; '.join(different)}): "
            "run it as before, or `overwrite` it."
        )
