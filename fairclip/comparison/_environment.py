"""What a rerun would need to know about this run."""

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fairclip.comparison._settings import Settings
from fairclip.comparison._source import Source

_RIVALS = ("fairlearn", "fairret", "torchjd")
_PACKAGES = ("fairclip", "torch", "numpy", "pandas", "scikit-learn", "scipy")
NOT_INSTALLED = "not installed"


def describe_environment(source: Source, settings: Settings) -> dict[str, Any]:
    """Return data, seeds, device, threads, versions and the command without its folder."""
    return {
        "data": {
            "name": source.name,
            "sha256": source.sha256,
            "rows": len(source.frame),
            "origin": source.origin,
        },
        "seeds": list(range(settings.seeds)),
        "device": settings.device,
        "threads": 1,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "rivals": {package: _version(package) for package in _RIVALS},
        "platform": platform.platform(),
        "command_line": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED
