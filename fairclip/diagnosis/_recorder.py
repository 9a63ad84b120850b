"""What the modules took and gave in one forward pass, in the order in which they gave it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fairclip.diagnosis._batch import detached, tensors
from fairclip.diagnosis._host import n_nonfinite, row_rms, stored
from fairclip.diagnosis._weighted import own_parameters


@dataclass(slots=True, eq=False)
class Layer:
    """One module, over all its calls.

    Args:
        name: As in ``named_modules()``; the model itself is "model".
        module: The module.
        trains: Whether it has trainable parameters itself, not only in its submodules.
        frozen: Whether it has parameters itself, and none is trainable.
        after_frozen: Whether a frozen layer was called before it.
        rms: The root mean square of the median row of its outputs, the largest of all calls; None
            where they depend on no parameter.
        largest: The largest absolute output, as a share of the largest number of its dtype.
        n_nonfinite: Elements of the outputs that are inf or NaN.
        data: The first argument of the first call, where it depends on no parameter.
        arguments: Those of a recurrent layer's first call.
        edges: The outputs of each call in the graph; in-place changes do not move them.
        output: The first output of the last call.
        gradient: The norm of the loss's gradient with respect to the outputs; None without one.
    """

    name: str
    module: nn.Module
    trains: bool
    frozen: bool
    after_frozen: bool
    rms: float | None = None
    largest: float = 0.0
    n_nonfinite: int = 0
    data: Tensor | None = None
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    edges: list[list[GradientEdge]] = field(default_factory=list)
    output: Tensor | None = None
    gradient: float | None = None

    def see(self, arguments: tuple[tuple[Any, ...], Mapping[str, Any]], outputs: Any) -> None:
        """Add a call."""
        taken = tensors(arguments)
        if not self.edges and taken and not any(x.requires_grad for x in taken):
            self.data = taken[0].detach().clone()
        if not self.edges and isinstance(self.module, nn.RNNBase):
            self.arguments = detached(arguments)
        made = [x for x in tensors(outputs) if x.requires_grad]
        # What depends on no parameter is no activation: a mask may well be infinite.
        measured = [x for x in tensors(outputs) if x.is_floating_point()] if self.frozen else made
        for numbers in map(stored, measured):
            self.n_nonfinite += n_nonfinite(numbers)
            if numbers.numel():
                self.rms = max(self.rms or 0.0, row_rms(numbers))
                largest = torch.linalg.vector_norm(numbers, math.inf)
                self.largest = max(self.largest, float(largest) / torch.finfo(numbers.dtype).max)
        self.edges.append([get_gradient_edge(x) for x in made])
        self.output = made[0] if made else None


@contextmanager
def recording(model: nn.Module) -> Iterator[list[Layer]]:
    """Record the modules that compute something themselves, for as long as it is open."""
    layers: list[Layer] = []
    by_module: dict[nn.Module, Layer] = {}
    names = {
        module: name or "model"
        for name, module in model.named_modules()
        if "parametrizations" not in name.split(".")  # what makes a weight is no layer
    }

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
    ) -> None:
        if module not in by_module:
            held = own_parameters(module).values()
            trains = any(p.requires_grad for p in held)
            frozen = bool(held) and not trains
            after_frozen = any(layer.frozen for layer in layers)
            by_module[module] = Layer(names[module], module, trains, frozen, after_frozen)
            layers.append(by_module[module])
        by_module[module].see((args, kwargs), outputs)

    own = [m for m in names if not any(m.children()) or own_parameters(m)]
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in own]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
