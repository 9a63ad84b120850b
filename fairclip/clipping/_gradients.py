"""The gradients that a mode acts on, and their norms. Shapes: n gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

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
    def of(cls, parameters: Parameters, *, dense_only: str = "") -> "Gradients":
        """Return the gradients of parameters in any form.

        Args:
            parameters: Tensors, or (name, tensor) pairs.
            dense_only: The name of a mode that needs whole tensors: a sparse gradient then raises.
        """
        found = cls()
        seen = set()
        for item in [parameters] if isinstance(parameters, Tensor) else parameters:
            name, tensor = item if isinstance(item, tuple) else (None, item)
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    "`parameters` must hold tensors or (name, tensor) pairs, "
                    f"got {type(tensor).__name__}."
                )
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            gradient = tensor.grad
            if gradient is None:
                found.without.append(name)
                continue
            if gradient.is_sparse:
                if dense_only:
                    raise TypeError(
                        f"{dense_only} needs dense gradients, and that of parameter "
                        f"{len(seen) - 1 if name is None else repr(name)} is sparse: make its "
                        "embedding with `sparse=False`, or leave it out."
                    )
                tensor.grad = (
                    gradient.coalesce()
                )  # rows that occur twice have the norm of their sum
                gradient = tensor.grad.values()  # a view: what scales it scales `.grad`
            found.names.append(name)
            found.tensors.append(tensor)
            found.values.append(gradient)
        return found

    def labels(self) -> tuple[str, ...]:
        """Return the names, numbers where there are none."""
        return tuple(str(i) if name is None else name for i, name in enumerate(self.names))


def norms(values: Sequence[Tensor], norm_type: float) -> Tensor:
    """Return the norm of each, (n,) on the first one's device, float32 at least."""
    if not values:
        return torch.zeros(0)
    first = values[0]
    if math.isinf(norm_type):  # nothing has no largest component
        values = [v if v.numel() else v.new_zeros(1) for v in values]
    kinds = {(v.dtype, v.device) for v in values}
    if len(kinds) == 1:
        each = _norms_of_alike(values, norm_type)
    else:
        each = [*values]
        for kind in kinds:
            places = [i for i, v in enumerate(values) if (v.dtype, v.device) == kind]
            alike = _norms_of_alike([values[i] for i in places], norm_type)
            for i, norm in zip(places, alike, strict=True):
                each[i] = norm.to(first.device)
    return plain(torch.stack(each))


def _norms_of_alike(values: Sequence[Tensor], norm_type: float) -> list[Tensor]:
    # torch's own norm of a half-precision gradient is half-precision too, and overflows.
    dtype = torch.float32 if values[0].dtype in _HALF else None
    return list(torch._foreach_norm(list(values), norm_type, dtype))


def plain(tensor: Tensor) -> Tensor:
    """Return a DTensor as a tensor that is the same on all ranks; another as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


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
