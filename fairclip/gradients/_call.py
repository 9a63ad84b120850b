"""One forward pass of one module, and what a backward pass brought back to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fairclip.gradients._attention import Projection
from fairclip.gradients._replay import Snapshot

Key = tuple[str, int]
"""A call: the module's name and how many calls of it ended before in the window."""

Pattern = tuple[str, tuple[int, ...], int]
"""What calls with the same layouts have in common: the module's name, and of every leaf of inputs
and outputs the number of dimensions, -1 for what is no tensor, and how many projections."""


class Receiver(Protocol):
    """Whoever makes use of a gradient while the backward pass runs, so that it need not be kept."""

    def receive(self, call: "Call", grad: Tensor) -> bool:
        """Use the gradient of a call's only output; say whether the call is done with."""
        ...


@dataclass(slots=True, weakref_slot=True, eq=False)
class Call:
    """One forward pass of one module, and the gradients that reached its outputs."""

    key: Key
    pattern: Pattern
    module: nn.Module
    inputs: list[Any]  # the leaves of (args, kwargs)
    spec: pytree.TreeSpec
    versions: tuple[int, ...]  # of the kept tensors, to notice changes in place
    is_outermost: bool  # no recorded call around it
    is_transformed: bool  # inside of torch.func.grad or another transformation
    snapshot: Snapshot | None  # of before the call
    outputs: list[Any]  # the leaves of what it returned, where they are kept
    grads: list[Tensor | None]  # one for each leaf of what it returned
    projections: list[Projection]  # of an attention
    receiver: "Receiver | None" = None  # offered each gradient as it comes
    is_served: bool = False  # it needed no more
    is_reached: bool = False  # a backward pass came through
    is_differentiated: bool = False  # its backward pass was, as a gradient penalty does
    inside: list["Call"] = field(default_factory=list)  # which only live as long as this one

    @property
    def name(self) -> str:
        """How to speak of the module."""
        return f"module '{self.key[0]}'" if self.key[0] else "the model"

    def release(self) -> None:
        """Let go of all tensors: the graph that refers to this call may live longer."""
        for held in (self.inputs, self.outputs, self.grads, self.projections, self.inside):
            held.clear()
        self.snapshot = self.receiver = None

    def has_lost_outputs(self) -> bool:
        """Say whether a kept output was modified in place so that its gradient cannot be seen."""
        then = iter(self.versions[len(versions(self.inputs)) :])
        return any(
            leaf._version != next(then) and leaf._is_view() and grad is None
            for leaf, grad in zip(self.outputs, self.grads, strict=False)
            if isinstance(leaf, Tensor)
        )

    def outputs_unchanged(self) -> bool:
        """Say whether the kept outputs still hold what the call returned."""
        return versions(self.outputs) == self.versions[len(versions(self.inputs)) :]

    def check_inputs_unchanged(self) -> None:
        """Raise where an input was modified in place after the call."""
        found = versions(self.inputs)
        if found != self.versions[: len(found)]:
            raise RuntimeError(
                f"An input of module '{self.key[0]}' was modified in place after its forward pass, "
                "so its group gradients cannot be computed. Use an operation that is not in place "
                "there, or `clipper.backward(losses, groups)`."
            )


def versions(leaves: Sequence[Any]) -> tuple[int, ...]:
    """Return how often each tensor was modified in place."""
    return tuple([leaf._version for leaf in leaves if isinstance(leaf, Tensor)])


def detached(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves with tensors cut off from the graph."""
    return [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
