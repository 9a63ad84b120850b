"""A fitted classifier as a folder: ``model.json`` and ``model.safetensors``, never a pickle."""

import copy
import json
from collections.abc import Callable
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from fairclip.training._json import from_json, to_json
from fairclip.training._losses import n_outputs
from fairclip.training._mlp import make_mlp

FORMAT = "fairclip.FairClipClassifier"
VERSION = 1  # of the files
SETTINGS = "model.json"
WEIGHTS = "model.safetensors"

Classifier = TypeVar("Classifier")


def save_classifier(classifier: Any, path: str | PathLike[str]) -> None:
    """Write the folder under a temporary name, then rename it."""
    folder = Path(path)
    if folder.exists():
        _read_settings(folder)
    parameters = classifier.get_params(deep=False)
    module = parameters.pop("module")
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "fairclip": version("fairclip"),
        "module": None if module is None else type(module).__qualname__,
        "parameters": {name: to_json(value, name) for name, value in parameters.items()},
        "classes": [to_json(label, "classes_") for label in classifier.classes_.tolist()],
        "classes_dtype": classifier.classes_.dtype.str,
        "n_features_in": classifier.n_features_in_,
        "feature_names_in": list(getattr(classifier, "feature_names_in_", [])) or None,
        "n_iter": classifier.n_iter_,
        "loss_curve": classifier.loss_curve_,
        "validation_curve": classifier.validation_curve_,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False)
        (new / SETTINGS).write_text(text, encoding="utf-8")
        save_model(classifier.module_, str(new / WEIGHTS))
        if folder.exists():
            folder.rename(Path(temporary, "old"))
        new.rename(folder)


def load_classifier(
    cls: Callable[..., Classifier], path: str | PathLike[str], module: nn.Module | None
) -> Classifier:
    """Build the classifier from its settings and give it the saved weights."""
    folder = Path(path)
    settings = _read_settings(folder)
    if settings["module"] is not None and module is None:
        raise ValueError(
            f"{folder} was saved with a module of its own, {settings['module']}: "
            "pass one as `module=`."
        )
    if settings["module"] is None and module is not None:
        raise ValueError(f"{folder} was saved with the default module: leave `module` out.")
    parameters = {name: from_json(value) for name, value in settings["parameters"].items()}
    classifier: Any = cls(module=module, **parameters)
    classes = [from_json(label) for label in settings["classes"]]
    classifier.classes_ = np.array(classes, dtype=settings["classes_dtype"])
    classifier.n_features_in_ = settings["n_features_in"]
    if settings["feature_names_in"] is not None:
        classifier.feature_names_in_ = np.array(settings["feature_names_in"], dtype=object)
    classifier.n_iter_ = settings["n_iter"]
    classifier.loss_curve_ = settings["loss_curve"]
    classifier.validation_curve_ = settings["validation_curve"]
    if module is None:
        n_logits = n_outputs(len(classes))
        fitted: nn.Module = make_mlp(classifier.n_features_in_, n_logits, classifier.hidden, seed=0)
    else:
        fitted = copy.deepcopy(module).cpu()
    try:
        load_model(fitted, folder / WEIGHTS)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(f"The weights in {folder} cannot be loaded: {error}") from error
    classifier.module_ = fitted.eval()
    return classifier  # type: ignore[no-any-return]


def _read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a saved classifier; anything else raises."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a saved model: {error}") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a saved model: its {SETTINGS} is something else.")
    if settings.get("version") != VERSION:
        raise ValueError(
            f"{folder} has file version {settings.get('version')}, this fairclip reads {VERSION}."
        )
    return settings
