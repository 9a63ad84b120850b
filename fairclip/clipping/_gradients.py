"""What the modes share: parameters in any form, their gradients by scope, and total norms."""

import math
from collections.abc import Hashable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from fairclip.clipping._mode import ClipRecord, Parameters

Scope = Literal["global", "layer", "tensor"]

_HALF = (torch.float16, torch.bfloat16)


def named(parameters: Parameters) -> list[tuple[str | None, Tensor]]:
    """Return (name or None, tensor) pairs, each tensor once: a tied weight is clipped once."""
    pairs: dict[int, tuple[str | None, Tensor]] = {}
    for item in [parameters] if isinstance(parameters, Tensor) else parameters:
        name, tensor = item if isinstance(item, tuple) else (None, item)
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "`parameters` must hold tensors or (name, tensor) pairs, "
                f"got {type(tensor).__name__}."
            )
        pairs.setdefault(id(tensor), (name, tensor))
    return list(pairs.values())


def with_gradients(pairs: list[tuple[str | None, Tensor]]) -> list[Tensor]:
    """Return the tensors that have a gradient, ready for ``torch.nn.utils``."""
    return [_dense(tensor, tensor.grad) for _, tensor in pairs if tensor.grad is not None]


def split(
    pairs: list[tuple[str | None, Tensor]], scope: Scope, overrides: Mapping[str, float]
) -> dict[tuple[str | None, Hashable], list[Tensor]]:
    """Return what is clipped together, by (pattern in ``overrides`` or None, place).

    The first pattern that matches a name counts. A scope without any gradient is left out.
    """
    if not overrides and scope == "global":
        tensors = with_gradients(pairs)
        return {(None, ""): tensors} if tensors else {}
    scopes: dict[tuple[str | None, Hashable], list[Tensor]] = {}
    for index, (name, tensor) in enumerate(pairs):
        if name is None and (overrides or scope == "layer"):
            raise ValueError(
                '`scope="layer"` and `overrides` need names: pass `model.named_parameters()`.'
            )
        pattern = next((p for p in overrides if fnmatchcase(name or "", p)), None)
        place = {"global": "", "layer": (name or "").rpartition(".")[0], "tensor": index}[scope]
        members = scopes.setdefault((pattern, place), [])
        if tensor.grad is not None:
            members.append(_dense(tensor, tensor.grad))
    unused = overrides.keys() - {pattern for pattern, _ in scopes}
    if unused:
        raise ValueError(f"The pattern {min(unused)!r} in `overrides` applies to no parameter.")
    return {key: members for key, members in scopes.items() if members}


def total_norm(tensors: list[Tensor], norm_type: float, error_if_nonfinite: bool = False) -> Tensor:
    """Return the norm of all gradients as one vector, accumulated in float32 at least."""
    # torch's own norm of a half-precision gradient is half-precision too, and overflows.
    gradients = [
        torch.linalg.vector_norm(gradient, norm_type, dtype=torch.float32)
        if gradient.dtype in _HALF
        else gradient
        for gradient in (tensor.grad for tensor in tensors)
        if gradient is not None and gradient.numel()  # nothing has no largest component
    ]
    return get_total_norm(gradients, norm_type, error_if_nonfinite)


def summarise(
    name: str, before: list[Tensor], after: list[Tensor], limits: list[float], norm_type: float
) -> ClipRecord:
    """Return the record of scopes whose norms went from ``before`` to ``after``."""
    if not before:
        before, after, limits = [torch.zeros(())], [torch.zeros(())], [math.nan]
    first = before[0]
    threshold = limits[0] if len(set(limits)) == 1 else math.nan
    if len(before) == 1:
        norm_before, norm_after = first, after[0]
        share = (norm_after < norm_before).to(first.dtype)
    else:
        norm_before = get_total_norm(before, norm_type)
        norm_after = get_total_norm(after, norm_type)
        lower = [(a < b).to(first.device) for a, b in zip(after, before, strict=True)]
        share = torch.stack(lower).to(first.dtype).mean()
    return ClipRecord(name, norm_before, norm_after, first.new_full((), threshold), share)


def _dense(tensor: Tensor, gradient: Tensor) -> Tensor:
    """Return the tensor, or for a sparse gradient its values with themselves as ``.grad``."""
    if not gradient.is_sparse:
        return tensor
    tensor.grad = gradient.coalesce()  # rows that occur twice have the norm of their sum
    values = tensor.grad.values()  # a view: what scales it scales `tensor.grad`
    stand_in = values.detach()
    stand_in.grad = values
    return stand_in
