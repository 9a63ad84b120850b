"""Take apart what a module takes and returns, and put it together again."""

from collections.abc import Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree


class _Fields:
    """A dataclass or mapping, opened: pytree knows only those that were registered with it."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance


def flatten(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """Return the leaves of a tree, and what ``pytree.tree_unflatten`` needs to undo it.

    A packed sequence is a leaf: whose entry is whose changes with every batch.
    """
    leaves, spec = pytree.tree_flatten(tree, is_leaf=_is_packed)
    if not any(map(_is_opened, leaves)):
        return leaves, spec
    return pytree.tree_flatten(pytree.tree_unflatten(map(_opened, leaves), spec), _is_packed)


def _is_packed(tree: Any) -> bool:
    return isinstance(tree, PackedSequence)


def _is_opened(leaf: Any) -> bool:
    return (is_dataclass(leaf) and not isinstance(leaf, type)) or isinstance(leaf, Mapping)


def _opened(leaf: Any) -> Any:
    return _Fields(leaf) if _is_opened(leaf) else leaf


def _flatten_fields(opened: _Fields) -> tuple[list[Any], Any]:
    instance = opened.instance
    if isinstance(instance, Mapping):
        names, held = list(instance), list(instance.values())
    else:
        names = [field.name for field in fields(instance)]
        held = [getattr(instance, name) for name in names]
    inner = [pytree.tree_map(_opened, value, is_leaf=_is_packed) for value in held]
    return inner, (instance, names)


def _unflatten_fields(values: Any, context: Any) -> Any:
    instance, names = context
    made: Any = copy(instance)
    for name, value in zip(names, values, strict=True):
        if isinstance(instance, Mapping):
            made[name] = value
        else:
            object.__setattr__(made, name, value)  # frozen ones too
    return made


pytree.register_pytree_node(_Fields, _flatten_fields, _unflatten_fields)
