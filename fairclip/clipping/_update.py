"""Limit the step that an optimizer takes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip.clipping._attach import labels
from fairclip.clipping._flat import copy, flat_pieces, flatten, write
from fairclip.clipping._gradients import (
    by_kind,
    is_sharded,
    local,
    locate_nonfinite,
    of_shards,
)
from fairclip.clipping._mode import OptimizerMode
from fairclip.clipping._record import ClipRecord

Kept = list[tuple[list[Tensor], list[Tensor]]]
"""Parameters of one dtype and device, and a flat copy of them in pieces."""


@dataclass(frozen=True, slots=True)
class Update(OptimizerMode):
    r"""Shorten every step of an optimizer to at most ``max_norm``, whatever the optimizer.

    .. math::
        w_{t+1} \leftarrow w_t + u \cdot \min\!\left(1, \frac{c}{\lVert u \rVert_2}\right),
        \qquad u = w_{t+1} - w_t

    :math:`u` is of all weights together, and includes momentum, adaptive step sizes and weight
    decay. What is short enough stays as it is, bit for bit. A norm of inf takes finite components
    back to :math:`w_t` and makes others NaN, one of NaN makes all NaN. It costs the memory of a
    copy of the weights during a step. Nothing waits for the device.

    With L-BFGS this is not what a clipped gradient does. :class:`Norm` acts on every evaluation of
    the closure, so the curvature pairs are made of clipped gradients: where both are, a pair says
    nothing of how the gradient's length changes. Steps then are far too long, and a line search
    looks for a minimum with slopes that are not the loss's own. ``Update`` leaves gradients and
    line search alone and shortens the whole step, of up to ``max_iter`` iterations. L-BFGS's memory
    of it is shortened too, or with several iterations left out, so that no curvature pair is wrong.
    The buffers of other optimizers stay as they are: limit them with :class:`Momentum`.

    Args:
        max_norm: The threshold :math:`c`, positive, in units of the weights; inf measures and
            changes nothing.

    Returns:
        By ``attach``, a handle whose ``record`` holds the norms of the update, and as ``ratio``
        that of :math:`w_{t+1} - w_t` over :math:`\lVert w_t \rVert_2`: about 0.001 is usual.
        ``norm_after`` is the length that is aimed at: weights are rounded to their dtype, and in
        bfloat16 a short step may round to a longer one or to none.

    Raises:
        ValueError: If ``max_norm`` is not positive.

    Source:
        The definition is fairclip's own: :class:`Norm`'s rule, applied to the step; for a single
        direction it is the trust radius of a step along it.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Update
        >>> weight = torch.nn.Parameter(torch.tensor([0.0, 10.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> handle = Update(max_norm=1.0).attach(optimizer)
        >>> weight.grad = torch.tensor([-3.0, 4.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([0.6000, 9.2000])
        >>> handle.record.norm_before, handle.record.ratio
        (tensor(5.), tensor(0.1000))
    """

    max_norm: float

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"`max_norm` must be positive, got {self.max_norm}.")

    def before(self, parameters: list[Tensor]) -> Kept:
        """Return the parameters of each kind and a copy of them."""
        kinds = [[parameters[i] for i in places] for places in by_kind(parameters).values()]
        return [(alike, [copy(piece) for piece in _pieces(alike)]) for alike in kinds]

    def after(self, optimizer: Optimizer, parameters: list[Tensor], kept: Kept) -> ClipRecord:
        """Move the weights back along the step."""
        device = parameters[0].device if parameters else None
        lengths = [_lengths(alike, old).to(device) for alike, old in kept]
        lengths = torch.linalg.vector_norm(torch.stack(lengths or [torch.zeros(2)]), dim=0)
        before, size = lengths.unbind()
        first = locate_nonfinite(before, parameters)  # before it spreads to the others
        factor = torch.ones_like(before)
        if self.max_norm < math.inf:
            factor = (self.max_norm / before).clamp(max=1.0)
            for alike, old in kept:
                _interpolate_(alike, old, factor)
            _shorten_memory(optimizer, factor)
        after = before * factor
        return ClipRecord(
            name="Update",
            norm_before=before,
            norm_after=after,
            threshold=before.new_full((), self.max_norm),
            share_clipped=(after != before).to(before.dtype),
            cosine=after / after,  # NaN without a direction
            first_nonfinite=first,
            parameters=labels(optimizer, parameters),
            ratio=after / size,
        )


def _pieces(alike: list[Tensor]) -> list[list[Tensor]]:
    return list(flat_pieces(local(alike)))


def _lengths(alike: list[Tensor], old: list[Tensor]) -> Tensor:
    """Return the norms of the update and of the weights before it, (2,)."""
    measured = []
    for piece, flat in zip(_pieces(alike), old, strict=True):
        dtype = torch.float32 if flat.dtype.itemsize < 4 else None
        pair = flatten(piece) - flat, flat
        measured.append(torch.stack([torch.linalg.vector_norm(x, dtype=dtype) for x in pair]))
    lengths: Tensor = torch.linalg.vector_norm(torch.stack(measured), dim=0)
    if is_sharded(alike[0]):
        lengths = torch.linalg.vector_norm(of_shards(lengths, alike[0]), dim=0)
    return lengths


def _interpolate_(alike: list[Tensor], old: list[Tensor], factor: Tensor) -> None:
    """Replace the weights by those between: exactly themselves where the factor is 1."""
    for piece, flat in zip(_pieces(alike), old, strict=True):
        dtype = torch.promote_types(flat.dtype, torch.float32)
        weight = factor.to(flat.device, dtype)
        write(torch.lerp(flat.to(dtype), flatten(piece).to(dtype), weight), piece)


def _shorten_memory(optimizer: Optimizer, factor: Tensor) -> None:
    """Make the next curvature pair of L-BFGS one of the step that was taken.

    The pair is of the last iteration. Where there were several, its end is no longer where the next
    gradient is taken, and a length of 0 leaves the pair out.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "old_stps" in state:
                whole = (factor == 1).to(factor.dtype)
                state["t"] = state["t"] * (factor if group["max_iter"] == 1 else whole)
