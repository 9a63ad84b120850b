"""Constructor parameters as JSON and back: numbers, text, sequences and clipping modes."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from fairclip import clipping
from fairclip.clipping import Chain, Mode

MODES: dict[str, type[Mode]] = {
    name: vars(clipping)[name]
    for name in clipping.__all__
    if issubclass(vars(clipping)[name], Mode)
}


def to_json(value: Any, name: str) -> Any:
    """Return ``value`` in JSON's types; ``name`` is for the error."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_json(item, name) for item in value]
    if isinstance(value, Mapping):
        pairs = [[to_json(key, name), to_json(item, name)] for key, item in value.items()]
        return {"mapping": pairs}  # JSON's own keys are all text
    if isinstance(value, Chain):
        return {"chain": [to_json(mode, name) for mode in value.modes]}
    if type(value) in MODES.values():
        arguments = {
            field.name: to_json(getattr(value, field.name), name) for field in fields(value)
        }
        return {"mode": type(value).__name__, "arguments": arguments}
    raise ValueError(f"`{name}` cannot be written as JSON, got {value!r}; set it before saving.")


def from_json(value: Any) -> Any:
    """Undo `to_json`; every sequence becomes a tuple."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "mapping" in value:
        return {from_json(key): from_json(item) for key, item in value["mapping"]}
    if "chain" in value:
        return Chain(*(from_json(mode) for mode in value["chain"]))
    if value["mode"] not in MODES:
        raise ValueError(f"There is no clipping mode {value['mode']!r}.")
    arguments = {key: from_json(item) for key, item in value["arguments"].items()}
    return MODES[value["mode"]](**arguments)
