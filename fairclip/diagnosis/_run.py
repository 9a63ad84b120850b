"""One forward and one backward pass of the user's model, with all that the checks look at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairclip.diagnosis._batch import Batch, tensors
from fairclip.diagnosis._host import norm
from fairclip.diagnosis._recorder import Layer, recording
from fairclip.diagnosis._weighted import own_parameters

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What came of one batch; the graph is kept.

    Args:
        model: The model.
        batch: What it was run on.
        layers: What its modules did, in the order of their first calls.
        parameters: The trainable ones by name.
        outputs: The model's floating outputs that depend on parameters.
        losses: What the loss function returned.
        gradients: Of the mean of ``losses``, a parameter each; None where it does not depend on it.
    """

    model: nn.Module
    batch: Batch
    layers: list[Layer]
    parameters: dict[str, Tensor]
    outputs: list[Tensor]
    losses: Tensor
    gradients: dict[str, Tensor | None]

    def own(self, layer: Layer) -> list[tuple[str, Tensor, Tensor]]:
        """Return the layer's own parameters that have a gradient, as name, value and gradient."""
        by_parameter = {id(p): self.gradients[name] for name, p in self.parameters.items()}
        return [
            (name, p, gradient)
            for name, p in own_parameters(layer.module).items()
            if (gradient := by_parameter.get(id(p))) is not None
        ]

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, loss_fn: LossFunction) -> "Run":
        """Run it.

        Raises:
            TypeError: If the loss is not a tensor.
            ValueError: If it does not depend on the parameters.
        """
        parameters: dict[str, Tensor] = {
            name: p for name, p in model.named_parameters() if p.requires_grad
        }
        with recording(model) as layers:
            outputs, losses = batch.loss(model, loss_fn)
        _check_loss(losses)
        edges = [edge for layer in layers if layer.trains for call in layer.edges for edge in call]
        found = torch.autograd.grad(
            losses.mean(),
            (*parameters.values(), *edges),  # type: ignore[arg-type]  # torch takes a mixture
            retain_graph=True,
            allow_unused=True,
        )
        n = len(parameters)
        if all(gradient is None for gradient in found[:n]):
            raise ValueError(_INDEPENDENT)
        by_edge = dict(zip(edges, found[n:], strict=True))
        for layer in layers:
            reached = [by_edge.get(edge) for call in layer.edges for edge in call]
            if any(gradient is not None for gradient in reached):
                layer.gradient = norm(reached)
        return cls(
            model=model,
            batch=batch,
            layers=layers,
            parameters=parameters,
            outputs=[x for x in tensors(outputs) if x.requires_grad],
            losses=losses,
            gradients=dict(zip(parameters, found[:n], strict=True)),
        )


_INDEPENDENT = (
    "The loss must depend on the model's trainable parameters, and it does not. Compute it from "
    "the model's outputs, without `detach`, `no_grad`, `item` or numpy on the way, and checkpoint "
    "with use_reentrant=False."
)


def _check_loss(losses: Any) -> None:
    """Raise unless it is a loss that can be differentiated."""
    if not isinstance(losses, Tensor):
        raise TypeError(
            f"`loss_fn` must return a tensor, got {type(losses).__name__}. "
            "Return the loss of each row, or their mean."
        )
    if not losses.requires_grad:
        raise ValueError(_INDEPENDENT)
