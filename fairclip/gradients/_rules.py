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
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from fairclip.gradients._convolution import convolution
from fairclip.gradients._lookup import Lookup
from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import Slots

BySlot = dict[str, Tensor]
"""For each parameter what the rows of each slot caused, (S, *shape)."""

Rule = Callable[[nn.Module, Tensor, Tensor, Slots], BySlot | Outer]


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
        (grads.shape[-1], inputs.shape[-1]),
    )


def _conv1d(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    """Sum for transformers' Conv1D, a linear layer whose weight is (d_in, d_out)."""
    x = slots.gather(inputs.to(grads.dtype)).flatten(0, -2)
    d = slots.gather(grads).flatten(0, -2)
    weight = "weight" if _needs(module, "weight") else None
    sums = Outer(d, x, weight, None, (x.shape[1], d.shape[1])).sums(slots)
    if _needs(module, "bias"):
        sums["bias"] = slots.sums(d)
    return sums


def _embedding(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Outer:
    assert isinstance(module, nn.Embedding)
    return _lookup(module, slots.gather(inputs), slots.gather(grads))


def _embedding_bag(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> Outer:
    assert isinstance(module, nn.EmbeddingBag)
    ids, d = slots.gather(inputs), slots.gather(grads)  # (M, T), (M, width)
    if module.mode == "mean":
        # All of them without a padding index: no id is -1.
        counts = (ids != (-1 if module.padding_idx is None else module.padding_idx)).sum(1)
        d = d / counts.clamp(min=1)[:, None]
    return _lookup(module, ids, d[:, None].expand(*ids.shape, -1))


def _lookup(module: nn.Embedding | nn.EmbeddingBag, ids: Tensor, grads: Tensor) -> Outer:
    ids, d = ids.flatten(), grads.flatten(0, -2)
    if module.padding_idx is not None:
        d = torch.where((ids == module.padding_idx)[:, None], 0, d)
    return Lookup(ids.to(torch.int64), d, "weight", None, tuple(module.weight.shape))


def _affine(module: nn.Module, normal: Tensor, grads: Tensor, slots: Slots, keep: int) -> BySlot:
    """Sum for ``normal * weight + bias`` of gathered rows.

    The parameters have the `keep` dimensions after the rows.
    """
    sums: BySlot = {}
    shape = getattr(module, "weight" if _needs(module, "weight") else "bias").shape
    others = [d for d in range(1, grads.ndim) if not keep <= d < keep + len(shape)]
    grads = grads.to(normal.dtype)
    for name in ("weight", "bias"):
        if _needs(module, name):
            rows = grads * normal if name == "weight" else grads
            sums[name] = slots.sums(rows.sum(others) if others else rows)
    return sums


def _layer_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    assert isinstance(module, nn.LayerNorm)
    rows = slots.gather(inputs).to(module.weight.dtype)
    normal = F.layer_norm(rows, module.normalized_shape, eps=module.eps)
    keep = grads.ndim - len(module.normalized_shape)
    return _affine(module, normal, slots.gather(grads), slots, keep)


def _rms_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    assert isinstance(module, nn.RMSNorm)
    rows = slots.gather(inputs).to(module.weight.dtype)
    normal = F.rms_norm(rows, module.normalized_shape, eps=module.eps)
    keep = grads.ndim - len(module.normalized_shape)
    return _affine(module, normal, slots.gather(grads), slots, keep)


def _instance_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    assert isinstance(module, _InstanceNorm)
    if module.track_running_stats and not module.training:
        return _batch_norm(module, inputs, grads, slots)
    return _by_row(module, inputs, grads, slots, module.num_features)


def _group_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    assert isinstance(module, nn.GroupNorm)
    return _by_row(module, inputs, grads, slots, module.num_groups)


def _by_row(
    module: nn.GroupNorm | _InstanceNorm, inputs: Tensor, grads: Tensor, slots: Slots, n_groups: int
) -> BySlot:
    """Sum where each row's own channels are normalised together, in that many groups."""
    rows = _channels(slots.gather(inputs).to(module.weight.dtype))
    n_rows, n_channels, n_places = rows.shape
    _, mean, scale = torch.native_group_norm(
        rows, None, None, n_rows, n_channels, n_places, n_groups, module.eps
    )
    repeats = n_channels // n_groups
    mean, scale = (x.repeat_interleave(repeats, 1) for x in (mean, scale))
    return _by_channel(module, rows, slots.gather(grads), mean, scale, slots)


def _batch_norm(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    assert isinstance(module, _NormBase)
    inputs = inputs.to(module.weight.dtype)
    mean, var = module.running_mean, module.running_var
    if module.training or mean is None or var is None:
        _, mean, scale = torch.native_batch_norm(
            inputs, None, None, None, None, True, 0.0, module.eps
        )
    else:
        scale = (var + module.eps).rsqrt()
    rows = _channels(slots.gather(inputs))
    return _by_channel(module, rows, slots.gather(grads), mean, scale, slots)


def _by_channel(
    module: nn.Module, rows: Tensor, grads: Tensor, mean: Tensor, scale: Tensor, slots: Slots
) -> BySlot:
    """Sum for ``(rows - mean) * scale * weight + bias`` of gathered rows (M, C, L)."""
    grads = _channels(grads.to(rows.dtype))
    of_bias = grads.sum(2)  # (M, C)
    sums: BySlot = {}
    if _needs(module, "weight"):
        of_weight = (torch.linalg.vecdot(rows, grads) - mean * of_bias) * scale
        sums["weight"] = slots.sums(of_weight)
    if _needs(module, "bias"):
        sums["bias"] = slots.sums(of_bias)
    return sums


def _channels(rows: Tensor) -> Tensor:
    return rows.reshape(*rows.shape[:2], -1)  # (M, C, L)


def _prelu(module: nn.Module, inputs: Tensor, grads: Tensor, slots: Slots) -> BySlot:
    assert isinstance(module, nn.PReLU)
    rows = slots.gather(grads) * slots.gather(inputs).clamp(max=0)  # (M, C, ...)
    if module.num_parameters == 1:
        rows = rows.flatten(1)[:, None] if rows.ndim > 1 else rows[:, None]
    return {"weight": slots.sums(rows.flatten(2).sum(2) if rows.ndim > 2 else rows)}


_RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.ConvTranspose1d: convolution,
    nn.ConvTranspose2d: convolution,
    nn.ConvTranspose3d: convolution,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding_bag,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.InstanceNorm3d: _instance_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.PReLU: _prelu,
}


_FEATURES_LAST = {_linear, _conv1d, _embedding, _layer_norm, _rms_norm}
"""Rules of layers that do not mind which of the other dimensions holds the rows."""


def _rule_of(kind: type[nn.Module]) -> Rule | None:
    if (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D"):
        return _conv1d
    return _RULES.get(kind)


def find_rule(module: nn.Module, rows_dim: int) -> Rule | None:
    """Return the rule of a module that gets its rows in that dimension.

    None where there is no rule, or where the module's forward is not torch's own.
    """
    rule = _rule_of(type(module))
    if rows_dim != 0 and rule not in _FEATURES_LAST:
        return None
    own = {name for name, _ in module.named_parameters(recurse=False)}
    if rule is None or "forward" in vars(module) or not own <= {"weight", "bias"}:
        return None
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
        return None
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        return None
    return rule
