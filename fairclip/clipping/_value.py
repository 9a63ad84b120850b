"""Limit every component of the gradients."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._flat import flat_pieces, flatten
from fairclip.clipping._gradients import (
    Gradients,
    by_kind,
    is_sharded,
    local,
    locate_nonfinite,
    of_shards,
)
from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord


@dataclass(frozen=True, slots=True)
class Value(Mode):
    r"""Clamp every component of every gradient into an interval around 0.

    .. math:: g_i \leftarrow \min(\max(g_i, -v), v)

    The direction of the gradient changes. NaN stays NaN, inf becomes :math:`v`; a sparse gradient
    is coalesced. Nothing waits for the device.

    Args:
        max_value: The limit :math:`v`, positive; inf changes nothing.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs.

    Returns:
        A :class:`ClipRecord`: 2-norms of all gradients together, and as ``share_clipped`` the share
        of components that were beyond the limit (of the stored ones where gradients are sparse).

    Raises:
        ValueError: If ``max_value`` is not positive.

    Source:
        ``torch.nn.utils.clip_grad_value_``, whose result this is to the bit. Departure: a limit
        that a gradient's dtype cannot hold changes nothing, where torch raises.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Value
        >>> weight = torch.zeros(4)
        >>> weight.grad = torch.tensor([-3.0, 0.5, 1.0, 2.0])
        >>> float(Value(max_value=1.0)([weight]).share_clipped)
        0.5
        >>> weight.grad
        tensor([-1.0000,  0.5000,  1.0000,  1.0000])
    """

    max_value: float

    def __post_init__(self) -> None:
        if not self.max_value > 0:
            raise ValueError(f"`max_value` must be positive, got {self.max_value}.")

    def scaled(self, factor: float) -> "Value":
        """Return this mode with its limit times ``factor``."""
        return replace(self, max_value=factor * self.max_value)

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Clamp every ``.grad`` in place."""
        gradients = Gradients.of(parameters)
        return clamp_("Value", gradients.values, self.max_value, gradients.labels())


def clamp_(mode: str, values: list[Tensor], limit: float, labels: tuple[str, ...]) -> ClipRecord:
    """Clamp all components of tensors of any kind."""
    kinds = [[values[i] for i in places] for places in by_kind(values).values()]
    sums = torch.zeros(4, dtype=torch.float64, device=values[0].device if values else None)
    for alike in kinds:
        sums += _sums(alike, limit).to(sums.device)
    before, after, both, n_beyond = sums.unbind()
    record = ClipRecord(
        name=mode,
        norm_before=before.sqrt(),
        norm_after=after.sqrt(),
        threshold=before.new_full((), limit),
        share_clipped=n_beyond / max(sum(value.numel() for value in values), 1),
        cosine=both / (before * after).sqrt(),
        first_nonfinite=locate_nonfinite(before, values),  # of inf nothing is left to be found
        parameters=labels,
    )
    for alike in kinds:
        own, most = local(alike), _in_dtype(limit, alike)
        torch._foreach_clamp_min_(own, -most)
        torch._foreach_clamp_max_(own, most)
    return record


def _in_dtype(limit: float, alike: list[Tensor]) -> float:
    """Return a limit that does the same: torch raises where a dtype cannot hold one."""
    return math.inf if limit > torch.finfo(alike[0].dtype).max else limit


def _sums(alike: list[Tensor], limit: float) -> Tensor:
    """Return what `_measure` does of all gradients of one kind, (4,)."""
    most = _in_dtype(limit, alike)
    measured = [_measure(flatten(piece), most) for piece in flat_pieces(local(alike))]
    sums = torch.stack(measured).sum(0, dtype=torch.float64)
    return of_shards(sums, alike[0]).sum(0) if is_sharded(alike[0]) else sums


def _measure(piece: Tensor, limit: float) -> Tensor:
    """Return the squares before and after, their product, and the count beyond it, (4,)."""
    clamped = piece.clamp(-limit, limit)
    beyond = (piece - clamped).sign_()  # NaN is beyond nothing
    if piece.dtype.itemsize < 4:
        piece, clamped, beyond = piece.float(), clamped.float(), beyond.float()
    pairs = (piece, piece), (clamped, clamped), (piece, clamped), (beyond, beyond)
    return torch.stack([torch.dot(*pair) for pair in pairs])
