"""Which module works with which parameter, and whether that has changed."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import nn

from fairclip.gradients._attention import held_parameters

Owners = Mapping[str, Mapping[str, str]]
"""For each module that holds trainable parameters itself: their local and their full names."""


def trainable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules with trainable parameters, their own or those of modules inside."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters())
    }


def find_owners(
    modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, str]]:
    """Return which of the modules holds which of the parameters."""
    by_id = {id(p): name for name, p in parameters.items()}
    owners = {}
    for name, module in modules.items():
        held = held_parameters(module).items()
        if names := {local: by_id[id(p)] for local, p in held if p.requires_grad}:
            owners[name] = names
    for name, module in modules.items():
        if type(module) is nn.MultiheadAttention:  # which does not call it
            owners.pop(f"{name}.out_proj" if name else "out_proj", None)
    return owners


class Structure:
    """Notices when a module or a parameter is added, replaced or unfrozen."""

    def __init__(self, model: nn.Module) -> None:
        self._registries: list[dict[str, Any]] = [
            registry for m in model.modules() for registry in (m._modules, m._parameters)
        ]
        self._frozen = [p for p in model.parameters() if not p.requires_grad]
        self._then = self._now()

    def has_changed(self) -> bool:
        """Say whether the model is not as it was."""
        return self._now() != self._then

    def _now(self) -> list[int]:
        items = chain.from_iterable([registry.values() for registry in self._registries])
        return [*map(id, items), *[p.requires_grad for p in self._frozen]]
