"""The linear layers inside of an attention: no hook sees them, but the autograd graph does.

`nn.MultiheadAttention` multiplies by its projections' weights without calling a module. What went
into these products and the gradients of what came out are rows as those of any linear layer, under
dropout and masks as well. Shapes: B rows, T steps, which torch flattens to T * B; S slots.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils import _pytree as pytree

from fairclip.gradients._autograd import saves_by_hooks
from fairclip.gradients._layout import Layout
from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import Slots

_STEP_BY_STEP = Layout(0, "row_minor")
_INPUTS_OF = {"AddmmBackward0": "_saved_mat1", "MmBackward0": "_saved_self"}  # of products
_CASTS = ("TBackward0", "ToCopyBackward0")


@dataclass(frozen=True, slots=True)
class _Weight:
    name: str  # local, as that of the bias
    tensor: Tensor
    bias: str | None
    start: int  # of its outputs among all to which the bias is added
    n_outputs: int  # of all those


@dataclass(frozen=True, slots=True)
class Projection:
    """A product with some rows of a weight, or all, and the gradient of what came out."""

    weight: _Weight
    start: int
    size: int
    inputs: Tensor  # (T * B, d_in)
    grads: list[Tensor | None] = field(default_factory=lambda: [None])  # one, (T * B, size)


def held_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a module's own forward pass works with, by local name."""
    held = dict(module.named_parameters(recurse=False))
    if type(module) is nn.MultiheadAttention:
        held.update(module.out_proj.named_parameters("out_proj", recurse=False))
    return held


def find_projections(
    module: nn.MultiheadAttention, inputs: Sequence[Any], output: Tensor
) -> list[tuple[Node, Projection]]:
    """Return the projections of a call that has just ended, each with the node of its product.

    An empty list where they are not all there is: such a call has to be run again.
    """
    if module.bias_k is not None or saves_by_hooks():
        return []  # to look at what checkpointing saves would run it again
    weights = _weights(module)
    n_missing = sum([weight.tensor.shape[0] for weight in weights])
    found: list[tuple[Node, Projection]] = []
    seen = {leaf.grad_fn for leaf in inputs if isinstance(leaf, Tensor)}
    ahead = [output.grad_fn]
    while ahead and n_missing:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = node.next_functions
        ahead += [n for n, _ in before]
        if (saved := _INPUTS_OF.get(type(node).__name__)) and hasattr(node, saved):
            tensor, start, size = _factor(*before[-1])
            for weight in weights:
                if weight.tensor is tensor:
                    n_rows = weight.tensor.shape[0] if size is None else size
                    n_missing -= n_rows
                    start += weight.start
                    rows = getattr(node, saved).detach()  # a graph would hold its own node
                    found.append((node, Projection(weight, start, n_rows, rows)))
    return [] if n_missing else found


def takes_rows(module: nn.Module, layouts: Sequence[Layout | None], spec: pytree.TreeSpec) -> bool:
    """Say whether query, key and value hold the rows in their batch dimension."""
    args, kwargs = pytree.tree_unflatten(layouts, spec)
    batch = Layout(0 if module.batch_first else 1)
    return all(layout == batch for layout in _sequences(*args, **kwargs))


def attention_sums(
    projections: Sequence[Projection], slots: Slots
) -> Iterator[Outer | dict[str, Tensor]]:
    """Yield what the rows of each slot caused in an attention's parameters."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for projection in sorted(projections, key=lambda p: p.start):
        inputs, grads = projection.inputs, projection.grads[0]
        if grads is None:  # the loss does not depend on it
            grads = inputs.new_zeros(len(inputs), projection.size)
        weight = projection.weight
        inputs, grads = _gather(inputs, slots), _gather(grads, slots)
        shape = projection.size, inputs.shape[1]
        outer = Outer(inputs, grads, weight.name, weight.bias, shape)
        if projection.size == weight.n_outputs:
            yield outer
        else:
            for name, sums in outer.sums(slots).items():
                parts[name].append(sums)
    yield {name: torch.cat(sums, 1) for name, sums in parts.items()}


def _gather(tensor: Tensor, slots: Slots) -> Tensor:
    return slots.gather(_STEP_BY_STEP.rows(tensor, slots.n_rows)).flatten(0, 1)


def _sequences(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, Any, Any]:
    return query, key, value


def _weights(module: nn.MultiheadAttention) -> list[_Weight]:
    width, out = module.embed_dim, module.out_proj
    bias = None if out.bias is None else "out_proj.bias"
    of_output = _Weight("out_proj.weight", out.weight, bias, 0, width)
    bias = None if module.in_proj_bias is None else "in_proj_bias"
    if module.in_proj_weight is not None:
        return [of_output, _Weight("in_proj_weight", module.in_proj_weight, bias, 0, 3 * width)]
    of_inputs = [
        _Weight(name, getattr(module, name), bias, number * width, 3 * width)
        for number, name in enumerate(("q_proj_weight", "k_proj_weight", "v_proj_weight"))
    ]
    return [of_output, *of_inputs]


def _factor(node: Any, output_nr: int) -> tuple[Tensor | None, int, int | None]:
    """Return the parameter that a product's factor is, the first of its rows and how many.

    None for how many means all of them.
    """
    start, size = 0, None
    while node is not None and (kind := type(node).__name__) != "AccumulateGrad":
        if kind == "SplitWithSizesBackward0":
            sizes = node._saved_split_sizes
            start, size = sum(sizes[:output_nr]), sizes[output_nr]
        elif kind == "SplitBackward0":
            size = node._saved_split_size
            start = output_nr * size
        elif kind not in _CASTS:
            return None, 0, None
        node, output_nr = node.next_functions[0]
    return (None if node is None else node.variable), start, size
