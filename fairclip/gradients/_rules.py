"""Group sums of parameter gradients, layer type by layer type.

A rule takes a module, its input and the gradient of its output, both (B * m, ...) with the m
entries of each row of the batch side by side, and the S slots whose rows count. It returns what the
rows of each slot caused: for each parameter of the module a tensor (S, *shape), or the rows whose
outer products that is. Any layer without a rule is run again instead: a rule is only ever a matter
of speed.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import Slots

Sums = dict[str, Tensor]
Rule = Callable[[nn.Module, Tensor, Tensor, Slots], Sums | Outer]


def _needs(module: nn.Module, name: str) -> bool:
    parameter = module._parameters.get(name)
    return parameter is not None and parameter.requires_grad


def _linear(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Outer:
    if inputs.dtype != grads.dtype:
        inputs = inputs.to(grads.dtype)  # as the backward pass does under autocast
    return Outer(
        slots.gather(inputs).flatten(0, -2),
        slots.gather(grads).flatten(0, -2),
        "weight" if _needs(module, "weight") else None,
        "bias" if _needs(module, "bias") else None,
    )


def _conv(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Sums:
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    wanted = [False, module.weight.requires_grad, _needs(module, "bias")]
    n_spatial = module.weight.ndim - 2
    weight = module.weight.detach().to(grads.dtype)
    parts: dict[str, list[Tensor]] = {
        name: [] for name, want in zip(("weight", "bias"), wanted[1:], strict=True) if want
    }
    for d, x in zip(slots.split(grads), slots.split(inputs.to(grads.dtype)), strict=True):
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            d,
            x,
            weight,
            [module.out_channels],
            list(module.stride),
            list(module.padding),
            list(module.dilation),
            False,
            [0] * n_spatial,
            module.groups,
            wanted,
        )
        for name, value in (("weight", of_weight), ("bias", of_bias)):
            if name in parts:
                parts[name].append(value)
    return {name: torch.stack(tensors) for name, tensors in parts.items()}


def _embedding(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Sums:
    assert isinstance(module, nn.Embedding)
    tables = []
    for d, ids in zip(slots.split(grads), slots.split(inputs), strict=True):
        ids, d = ids.flatten(), d.flatten(0, -2)
        if module.padding_idx is not None:
            d = torch.where((ids == module.padding_idx)[:, None], 0, d)
        table = torch.zeros_like(module.weight, dtype=d.dtype)
        tables.append(table.index_add_(0, ids, d))
    return {"weight": torch.stack(tables)}


def _affine(module: nn.Module, normal: Tensor, grads: Tensor, slots: Slots, keep: int) -> Sums:
    """Sum for ``normal * weight + bias`` of gathered rows.

    The parameters have the `keep` dimensions after the rows.
    """
    sums: Sums = {}
    shape = getattr(module, "weight" if _needs(module, "weight") else "bias").shape
    others = [d for d in range(1, grads.ndim) if not keep <= d < keep + len(shape)]
    grads = grads.to(normal.dtype)
    for name in ("weight", "bias"):
        if _needs(module, name):
            rows = grads * normal if name == "weight" else grads
            sums[name] = slots.sums(rows.sum(others) if others else rows)
    return sums


def _layer_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Sums:
    assert isinstance(module, nn.LayerNorm)
    rows = slots.gather(inputs).to(module.weight.dtype)
    normal = F.layer_norm(rows, module.normalized_shape, eps=module.eps)
    keep = grads.ndim - len(module.normalized_shape)
    return _affine(module, normal, slots.gather(grads), slots, keep)


def _group_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Sums:
    assert isinstance(module, nn.GroupNorm)
    rows = slots.gather(inputs).to(module.weight.dtype)
    normal = F.group_norm(rows, module.num_groups, eps=module.eps)
    return _affine(module, normal, slots.gather(grads), slots, 1)


def _batch_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Sums:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    inputs = inputs.to(module.weight.dtype)
    mean, var = module.running_mean, module.running_var
    if module.training or mean is None:
        others = [d for d in range(inputs.ndim) if d != 1]
        var, mean = torch.var_mean(inputs, others, correction=0)
    normal = F.batch_norm(slots.gather(inputs), mean, var, eps=module.eps)
    return _affine(module, normal, slots.gather(grads), slots, 1)


_RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}


_FEATURES_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm)
"""Layers that do not mind which of the other dimensions holds the rows."""


def find_rule(module: nn.Module, rows_dim: int) -> Rule | None:
    """Return the rule of a module that gets its rows in that dimension.

    None where there is no rule, or where the module's forward is not torch's own.
    """
    rule = _RULES.get(type(module))
    if rows_dim != 0 and not isinstance(module, _FEATURES_LAST):
        return None
    own = {name for name, _ in module.named_parameters(recurse=False)}
    if rule is None or "forward" in vars(module) or not own <= {"weight", "bias"}:
        return None
    if rule is _conv and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return None
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return None
    return rule
