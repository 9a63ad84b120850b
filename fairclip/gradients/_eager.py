"""Run compiled modules as they were written, for as long as hooks must see inside."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_IN_PLACE = "_compiled_call_impl"  # of `module.compile()`


def is_wrapper(module: nn.Module) -> bool:
    """Say whether it is what `torch.compile(module)` returns."""
    return type(module).__name__ == "OptimizedModule"  # its class costs an import of seconds


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that was given to `torch.compile`, or the model itself."""
    inner = model._modules.get("_orig_mod") if is_wrapper(model) else model
    assert inner is not None
    return inner


class Eager:
    """While it is on, what is compiled in a model runs uncompiled wherever gradients are recorded.

    What runs without gradients, as an evaluation between two steps does, stays compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module, "forward" if is_wrapper(module) else _IN_PLACE)
            for module in model.modules()
            if is_wrapper(module) or module._compiled_call_impl is not None
        ]
        self._compiled: list[Any] = []

    def __bool__(self) -> bool:
        """Say whether anything is compiled."""
        return bool(self._places)

    def start(self) -> None:
        """Put a switch in the place of each compiled call."""
        if not self._compiled:
            self._compiled = [vars(module)[name] for module, name in self._places]
            for (module, name), compiled in zip(self._places, self._compiled, strict=True):
                setattr(module, name, _switch(compiled))

    def stop(self) -> None:
        """Put the compiled calls back."""
        for (module, name), compiled in zip(self._places, self._compiled, strict=False):
            setattr(module, name, compiled)
        self._compiled = []


def _switch(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return compiled(*args, **kwargs)
        with torch.compiler.set_stance("force_eager"):
            return compiled(*args, **kwargs)

    return call
