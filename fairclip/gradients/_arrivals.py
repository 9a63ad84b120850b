"""What runs inside of a backward pass: each gradient is kept with its call, or used at once."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence

from fairclip.gradients._attention import Projection
from fairclip.gradients._autograd import keeps_graph, runs
from fairclip.gradients._call import Call
from fairclip.gradients._trees import flatten


def listen(
    call: Call,
    outputs: Sequence[Any],
    projections: Iterable[tuple[Node, Projection]],
    writers: Sequence[Node],
) -> None:
    """Let the gradients of a call's outputs and projections come to it.

    Only those of a backward pass in which one of ``writers`` runs: others write no ``.grad``.
    """
    for position, leaf in enumerate(outputs):
        if isinstance(leaf, PackedSequence):
            leaf = leaf.data
        if isinstance(leaf, Tensor) and (node := leaf.grad_fn) is not None:
            # On the node, not the tensor: hooks of the user's on the tensor have run by then.
            node.register_prehook(partial(_keep, call, position, leaf.output_nr, writers))
    for node, projection in projections:
        node.register_prehook(partial(_keep_projected, call, projection, writers))


def refuse_backward_through(output: Any) -> None:
    """Raise if a backward pass goes on through what was computed within one."""

    def refuse(*_: Any) -> None:
        raise RuntimeError(
            "A layer runs again within the backward pass, as with reentrant activation "
            "checkpointing, which hides what its rows are in the model. Use "
            "`torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`."
        )

    for leaf in flatten(output)[0]:
        if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
            leaf.grad_fn.register_prehook(refuse)


def _keep(
    call: Call,
    position: int,
    output_nr: int,
    writers: Sequence[Node],
    grads: tuple[Tensor | None, ...],
) -> None:
    grad = grads[output_nr]
    if grad is None or not call.grads:
        return  # released
    if not any(map(runs, writers)):
        call.is_differentiated |= torch.is_grad_enabled()  # create_graph
        return
    call.is_reached = True
    if call.receiver is not None and call.receiver.receive(call, grad):
        call.is_served = True
        if not keeps_graph():
            call.inputs.clear()
        return
    held = call.grads[position]
    # Two backward passes over one graph add up, as they do in `.grad`.
    call.grads[position] = grad if held is None else held + grad


def _keep_projected(
    call: Call, projection: Projection, writers: Sequence[Node], grads: tuple[Tensor | None, ...]
) -> None:
    grad = grads[0]
    if grad is None or not call.grads or not any(map(runs, writers)):
        return
    held = projection.grads[0]
    projection.grads[0] = grad if held is None else held + grad
