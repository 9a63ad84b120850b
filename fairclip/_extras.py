"""Libraries that only some users have installed."""

from importlib import import_module
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import a library of one of fairclip's extras.

    Args:
        module: As in an import statement.
        extra: As in ``pip install "fairclip[extra]"``.

    Raises:
        ModuleNotFoundError: If it is not installed, with the command that installs it. What one of
            its own imports lacks is raised as it is.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f'This needs {package}: pip install "fairclip[{extra}]"', name=error.name
        ) from None
