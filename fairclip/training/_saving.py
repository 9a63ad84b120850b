"""A fitted estimator as a folder: ``model.json`` and ``model.safetensors``, never a pickle."""

import copy
import json
import shutil
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn.parameter import is_lazy

from fairclip.training._json import from_json, to_json
from fairclip.training._mlp import make_mlp

VERSION = 1  # of the files
SETTINGS = "model.json"
WEIGHTS = "model.safetensors"


def save_estimator(estimator: Any, path: str | PathLike[str]) -> None:
    """Write the folder under a temporary name, then rename it."""
    folder = Path(path).resolve()  # of a link, what it points at is replaced
    if folder.exists():
        _read_settings(folder, estimator._FORMAT)
    _check_parameters_fit(estimator)
    parameters = estimator.get_params(deep=False)
    module = parameters.pop("module")
    settings = {
        "format": estimator._FORMAT,
        "version": VERSION,
        "fairclip": version("fairclip"),
        "module": None if module is None else type(estimator.module_).__qualname__,
        "parameters": {name: to_json(value, name) for name, value in parameters.items()},
        **estimator._target_to_json(),
        "n_features_in": estimator.n_features_in_,
        "feature_names_in": list(getattr(estimator, "feature_names_in_", [])) or None,
        "n_iter": estimator.n_iter_,
        "loss_curve": estimator.loss_curve_,
        "validation_curve": estimator.validation_curve_,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False)
        (new / SETTINGS).write_text(text, encoding="utf-8")
        save_model(estimator.module_, str(new / WEIGHTS))
        # Next to the temporary folder, which is deleted whatever happens.
        _put(new, folder, aside=Path(f"{temporary}-old"))


def _check_parameters_fit(estimator: Any) -> None:
    """Raise where `load` would not make the fitted module of the parameters of now."""
    fitted, module = estimator.module_, estimator.module
    if module is None:
        n_features, n_outputs = estimator.n_features_in_, estimator._n_outputs
        default = make_mlp(n_features, n_outputs, estimator.hidden, seed=0)
        if repr(fitted) != repr(default):  # its layers and their sizes
            raise ValueError(
                "`hidden` or `module` is not what the model was fitted with, so its weights could "
                "not be loaded: set it back, or fit again."
            )
    elif not _is_alike(module, fitted):
        raise ValueError(
            "`module` is not what the model was fitted with, so its weights could not be loaded: "
            "set it back, or fit again."
        )


def _is_alike(module: nn.Module, fitted: nn.Module) -> bool:
    """Whether training can have made ``fitted`` of ``module``, which may be lazy."""
    kind = getattr(module, "cls_to_become", None) or type(module)
    new = dict(module.named_parameters(remove_duplicate=False))
    old = dict(fitted.named_parameters(remove_duplicate=False))
    return (
        kind.__qualname__ == type(fitted).__qualname__
        and new.keys() == old.keys()
        and all(is_lazy(new[name]) or new[name].shape == old[name].shape for name in new)
    )


def _put(new: Path, folder: Path, aside: Path) -> None:
    """Rename ``new`` to ``folder``; what is there steps aside, comes back on failure, or goes."""
    try:
        if folder.exists():
            folder.rename(aside)
        new.rename(folder)
    except BaseException:
        if aside.exists():
            aside.rename(folder)
        raise
    if aside.exists():
        shutil.rmtree(aside)


def load_estimator(cls: Any, path: str | PathLike[str], module: nn.Module | None) -> Any:
    """Build the estimator from its settings and give it the saved weights."""
    folder = Path(path)
    settings = _read_settings(folder, cls._FORMAT)
    try:
        estimator, saved_module = _from_settings(cls, settings), settings["module"]
        if saved_module is None:
            n_features, n_outputs = estimator.n_features_in_, estimator._n_outputs
            fitted: nn.Module = make_mlp(n_features, n_outputs, estimator.hidden, seed=0)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{folder / SETTINGS} is damaged, or of another fairclip "
            f"({settings.get('fairclip')}): {error!r}."
        ) from error
    if saved_module is None and module is not None:
        raise ValueError(f"{folder} was saved with the default module: leave `module` out.")
    if saved_module is not None:
        if module is None:
            raise ValueError(
                f"{folder} was saved with a module of its own, {saved_module}: "
                "pass one as `module=`."
            )
        estimator.module = module
        fitted = copy.deepcopy(module).cpu()
    try:
        load_model(fitted, folder / WEIGHTS)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(f"The weights in {folder} cannot be loaded: {error}") from error
    estimator.module_ = fitted.eval()
    return estimator


def _from_settings(cls: Any, settings: dict[str, Any]) -> Any:
    """Return the estimator without its modules."""
    parameters = {name: from_json(value) for name, value in settings["parameters"].items()}
    estimator: Any = cls(**parameters)
    estimator._target_from_json(settings)
    estimator.n_features_in_ = settings["n_features_in"]
    if settings["feature_names_in"] is not None:
        estimator.feature_names_in_ = np.array(settings["feature_names_in"], dtype=object)
    estimator.n_iter_ = settings["n_iter"]
    estimator.loss_curve_ = settings["loss_curve"]
    estimator.validation_curve_ = settings["validation_curve"]
    return estimator


def _read_settings(folder: Path, kind: str) -> dict[str, Any]:
    """Return the settings of a saved estimator of this kind; anything else raises."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a saved model: {error}") from error
    if not isinstance(settings, dict) or settings.get("format") != kind:
        raise ValueError(f"{folder} is not a saved model: its {SETTINGS} is something else.")
    if settings.get("version") != VERSION:
        raise ValueError(
            f"{folder} has file version {settings.get('version')}, this fairclip reads {VERSION}."
        )
    return settings
