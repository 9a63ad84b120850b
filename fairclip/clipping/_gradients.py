"""The gradients that a mode acts on, and their norms. Shapes: n gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from fairclip.clipping._mode import Parameters

_HALF = (torch.float16, torch.bfloat16)
_ALL_FINITE = torch.tensor(-1)


@dataclass(slots=True)
class Gradients:
    """The parameters that have a gradient, each once: a tied weight is clipped once.

    Attributes:
        names: One a parameter, None without a name.
        tensors: The parameters.
        values: Their gradients, dense: for a sparse one, after coalescing, its values. What is
            written into them is written into ``.grad``.
        without: The names of the parameters that have no gradient.
    """

    names: list[str | None] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    without: list[str | None] = field(default_factory=list)

    @classmethod
    def of(cls, parameters: "Parameters", *, dense_only: str = "") -> "Gradients":
        """Return the gradients of parameters in any form.

        Args:
            parameters: Tensors, or (name, tensor) pairs.
            dense_only: The name of a mode that needs whole tensors: a sparse gradient then raises.

        Raises:
            TypeError: If something is no parameter, or a gradient is complex, sparse where it must
                be dense, or a DTensor of placement Partial.
        """
        found = cls()
        names, tensors, values = found.names, found.tensors, found.values
        seen = set()
        for item in [parameters] if isinstance(parameters, Tensor) else parameters:
            name, tensor = item if isinstance(item, tuple) else (None, item)
            key = id(tensor)
            if key in seen:
                continue
            seen.add(key)
            try:
                gradient = tensor.grad
            except AttributeError:
                raise TypeError(
                    "`parameters` must hold tensors or (name, tensor) pairs, "
                    f"got {type(tensor).__name__}."
                ) from None
            if gradient is None:
                found.without.append(name)
                continue
            if gradient.is_complex():
                raise complex_error(_called(name, len(seen) - 1))
            if gradient.is_sparse:
                if dense_only:
                    raise TypeError(
                        f"{dense_only} needs dense gradients, and that of parameter "
                        f"{_called(name, len(seen) - 1)} is sparse: make its embedding with "
                        "`sparse=False`, or leave it out."
                    )
                # Rows that occur twice have the norm of their sum.
                tensor.grad = gradient.coalesce()
                gradient = tensor.grad.values()  # a view: what scales it scales `.grad`
            if type(gradient) is not Tensor:
                _check_reduced(gradient, _called(name, len(seen) - 1))
            names.append(name)
            tensors.append(tensor)
            values.append(gradient)
        return found

    def labels(self) -> tuple[str, ...]:
        """Return the names, numbers where there are none."""
        numbers = _numbers(len(self.names))
        return tuple(map(_either, self.names, numbers)) if any(self.names) else numbers


@lru_cache(maxsize=8)
def _numbers(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


def _either(name: str | None, number: str) -> str:
    return number if name is None else name


def _called(name: str | None, place: int) -> str:
    return str(place) if name is None else repr(name)


def complex_error(parameter: str) -> TypeError:
    """Return the error for a complex parameter."""
    return TypeError(
        f"Parameter {parameter} is complex, and only real ones can be clipped: leave it out, or "
        "keep its real and imaginary parts as a real parameter (`torch.view_as_real`)."
    )


def _check_reduced(gradient: Any, parameter: str) -> None:
    if any(placement.is_partial() for placement in getattr(gradient, "placements", ())):
        raise TypeError(
            f"The gradient of parameter {parameter} is spread over ranks as parts of a sum "
            "(placement Partial): `redistribute` it to Shard or Replicate first."
        )


def norms(
    values: Sequence[Tensor], norm_type: float, kinds: Mapping[Any, list[int]] | None = None
) -> Tensor:
    """Return the norm of each, (n,) on the first one's device, float32 at least.

    Args:
        values: The tensors.
        norm_type: The order.
        kinds: What `by_kind` says of them, where it was asked before.
    """
    if not values:
        return torch.zeros(0)
    kinds = kinds or by_kind(values)
    if len(kinds) == 1:
        return _norms_of_alike(values, norm_type)
    each = [*values]
    for places in kinds.values():
        alike = _norms_of_alike([values[i] for i in places], norm_type).to(values[0].device)
        for i, norm in zip(places, alike.unbind(), strict=True):
            each[i] = norm
    return torch.stack(each)


def by_kind(values: Sequence[Tensor]) -> dict[Any, list[int]]:
    """Return the places of those that one call can measure."""
    if values and {*map(type, values)} <= {Tensor, Parameter}:
        grouped = _group_tensors_by_device_and_dtype([[*values]], with_indices=True)
        return {(dtype, device): at for (device, dtype), (_, at) in grouped.items()}
    kinds: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        kind: Any = value.dtype, value.device
        if is_sharded(value):
            kind += value.device_mesh, value.placements
        kinds.setdefault(kind, []).append(i)
    return kinds


def _norms_of_alike(values: Sequence[Tensor], norm_type: float) -> Tensor:
    """Return the norms of gradients of one kind, (n,)."""
    own = local(values)
    if math.isinf(norm_type):  # nothing has no largest component
        own = [value if value.numel() else value.new_zeros(1) for value in own]
    # torch's own norm of a half-precision gradient is half-precision too, and overflows.
    dtype = torch.float32 if own[0].dtype in _HALF else None
    each = torch.stack(torch._foreach_norm(own, norm_type, dtype))
    if is_sharded(values[0]):
        each = torch.linalg.vector_norm(of_shards(each, values[0]), norm_type, dim=0)
    return each


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether this is a DTensor, asked without an import of torch.distributed."""
    return hasattr(tensor, "full_tensor")


def local(values: Sequence[Tensor]) -> list[Tensor]:
    """Return this rank's parts of DTensors, as views, and other tensors as they are."""
    if all(type(value) is Tensor for value in values):
        return list(values)
    return [value.to_local() if is_sharded(value) else value for value in values]


def of_shards(measured: Tensor, whole: "DTensor") -> Tensor:
    """Return what was measured of each shard of a DTensor, (n shards, ...), on every rank."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    rows = [Replicate() if p.is_replicate() else Shard(0) for p in whole.placements]
    return DTensor.from_local(measured[None], whole.device_mesh, rows).full_tensor()


def plain(tensor: Tensor) -> Tensor:
    """Return a DTensor as a tensor that is the same on all ranks; another as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def first_nonfinite(measured: Tensor) -> Tensor:
    """Return the position of the first norm (n,) that is not finite, () int64, -1 without one."""
    if measured.device.type == "cpu":
        finite = np.isfinite(measured.numpy())
        return _ALL_FINITE if finite.all() else torch.tensor(int(finite.argmin()))
    finite = measured.isfinite()
    return torch.where(finite.all(), -1, finite.to(torch.uint8).argmin())


def locate_nonfinite(measured: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return `first_nonfinite` of gradients that were measured together, ()."""
    if measured.device.type == "cpu" and np.isfinite(measured.numpy()):
        return _ALL_FINITE
    return first_nonfinite(norms(values, math.inf))


def total(measured: Tensor, norm_type: float) -> Tensor:
    """Return the norm of everything as one vector, ()."""
    if not len(measured):
        return measured.new_zeros(())
    norm: Tensor = torch.linalg.vector_norm(measured, norm_type)
    return norm
