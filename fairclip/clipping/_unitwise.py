"""Limit the gradient of every unit relative to the unit's weights. Shapes: R units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._gradients import Gradients, local, locate_nonfinite, norms, plain
from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._units import fan_in, own, pieces, rows, write_back


@dataclass(frozen=True, slots=True)
class Unitwise(Mode):
    r"""Rescale the gradient of every unit to at most a share of the norm of its weights (AGC).

    .. math::
        g_i \leftarrow g_i \cdot \frac{c \max(\lVert w_i \rVert_2, \epsilon)}{\lVert g_i \rVert_2}
        \quad\text{where}\quad
        \lVert g_i \rVert_2 > c \max(\lVert w_i \rVert_2, \epsilon)

    A unit is what feeds one output: a row of a matrix, a filter of a convolution, in general an
    index of dimension 0. A vector or a scalar is one unit. An inf among a unit's gradients turns
    the finite ones into 0 and itself into NaN, as in :class:`Norm`; a unit with a NaN is left as it
    is. float16 and bfloat16 are computed in float32. Nothing waits for the device.

    Args:
        clip_factor: The share :math:`c`, dimensionless and positive; inf changes nothing.
        eps: The least norm :math:`\epsilon` that weights count as, positive: or else weights that
            start at zero would stay there.
        exclude: Patterns of the names of parameters to leave alone, as in ``("head.*",)``; the
            authors leave out the last linear layer.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs for ``exclude``.

    Returns:
        A :class:`ClipRecord`: 2-norms of all gradients together, excluded ones too, and as
        ``share_clipped`` the share of units that were rescaled. ``threshold`` is NaN: every unit
        has its own.

    Raises:
        ValueError: If a setting is out of range, names are missing, or a pattern applies to no
            parameter.
        TypeError: If a gradient is sparse, or ``exclude`` is a string.

    Source:
        Brock, A., De, S., Smith, S. L. and Simonyan, K. (2021). High-performance large-scale image
        recognition without normalization, section 4.1, https://arxiv.org/abs/2102.06171. Vectors
        and scalars are one unit there too, as in ``optax.adaptive_grad_clip`` and
        ``pytorch_optimizer``'s ``agc``. Departures from these two: the latter takes norms over
        dimension 1 only of tensors with three dimensions; the former expects the outputs in the
        last dimension, takes three dimensions for attention heads, treats a matrix with one row or
        column as a vector, and makes a unit with a NaN all NaN.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Unitwise
        >>> weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> weight.grad = torch.tensor([[0.3, 0.4], [0.0, 1e-6]])
        >>> Unitwise(clip_factor=0.01)([weight]).share_clipped
        tensor(0.5000, dtype=torch.float64)
        >>> weight.grad
        tensor([[3.0000e-02, 4.0000e-02],
                [0.0000e+00, 1.0000e-06]])
    """

    clip_factor: float = 0.01
    eps: float = 1e-3
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("clip_factor", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if isinstance(self.exclude, str):
            raise TypeError(f"`exclude` must be a sequence of patterns, got {self.exclude!r}.")

    def scaled(self, factor: float) -> "Unitwise":
        """Return this mode with ``clip_factor`` times ``factor``."""
        return replace(self, clip_factor=factor * self.clip_factor)

    def init(self, parameters: Parameters) -> None:
        """Raise where names are missing or a pattern fits none: there is nothing to remember."""
        self._excluded(Gradients.of(parameters))

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Scale the units of every ``.grad`` in place."""
        found = Gradients.of(parameters, dense_only="Unitwise")
        excluded = self._excluded(found)
        chosen = [place for place, out in enumerate(excluded) if not out]
        left = norms([value for value, out in zip(found.values, excluded, strict=True) if out], 2.0)
        lengths, factors = [left], [torch.ones_like(left)]
        for piece in pieces([found.values[place] for place in chosen]):
            values = [found.values[chosen[i]] for i in piece]
            gradient = rows(values)
            length = _unit_norms(gradient)  # (R, 1), or with more 1s
            size = _unit_norms(rows([found.tensors[chosen[i]] for i in piece]))
            allowed = self.clip_factor * size.clamp(min=self.eps)
            factor = torch.where(length > allowed, allowed / length, 1.0)
            local([gradient])[0].mul_(own(factor, gradient))
            write_back(gradient, values)
            lengths.append(plain(length).flatten())
            factors.append(plain(factor).flatten())
        return _record(found, lengths, factors)

    def _excluded(self, found: Gradients) -> list[bool]:
        names = [*found.names, *found.without]
        if self.exclude and None in names:
            raise ValueError(
                "`exclude` needs names: pass `model.named_parameters()`, or make the optimizer "
                "from it."
            )
        for pattern in self.exclude:
            if not any(fnmatchcase(name or "", pattern) for name in names):
                raise ValueError(f"The pattern {pattern!r} in `exclude` applies to no parameter.")
        return [any(fnmatchcase(n or "", each) for each in self.exclude) for n in found.names]


def _unit_norms(units: Tensor) -> Tensor:
    dtype = torch.float32 if units.dtype.itemsize < 4 else None
    norm: Tensor = torch.linalg.vector_norm(units, dim=fan_in(units), keepdim=True, dtype=dtype)
    return norm


def _record(found: Gradients, lengths: list[Tensor], factors: list[Tensor]) -> ClipRecord:
    """Report norms that were multiplied by factors; the first of the lists are of no units."""
    device = found.values[0].device if found.values else None
    length = torch.cat([each.to(device, torch.float64) for each in lengths])
    factor = torch.cat([each.to(device, torch.float64) for each in factors])
    before, after = torch.linalg.vector_norm(length), torch.linalg.vector_norm(length * factor)
    n_units = len(length) - len(lengths[0])
    return ClipRecord(
        name="Unitwise",
        norm_before=before,
        norm_after=after,
        threshold=before.new_full((), math.nan),
        share_clipped=(factor < 1).sum(dtype=torch.float64) / max(n_units, 1),
        cosine=torch.dot(length * length, factor) / (before * after),
        first_nonfinite=locate_nonfinite(before, found.values),
        parameters=found.labels(),
    )
