"""Limit the step that an optimizer takes."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip.clipping._gradients import local, norms, total
from fairclip.clipping._limit import limit
from fairclip.clipping._mode import OptimizerMode
from fairclip.clipping._record import ClipRecord


@dataclass(frozen=True, slots=True)
class Update(OptimizerMode):
    r"""Shorten every step of an optimizer to at most ``max_norm``, whatever the optimizer.

    .. math::
        w_{t+1} \leftarrow w_t + u \cdot \min\!\left(1, \frac{c}{\lVert u \rVert_2}\right),
        \qquad u = w_{t+1} - w_t

    :math:`u` is of all weights together, and includes momentum, adaptive step sizes and weight
    decay. What is short enough stays as it is, bit for bit. A norm of inf takes finite components
    back to :math:`w_t` and makes others NaN, one of NaN makes all NaN. It costs the memory of two
    copies of the weights during a step. Nothing waits for the device.

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

    def before(self, parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters and copies of them."""
        return parameters, [parameter.detach().clone() for parameter in parameters]

    def after(
        self,
        optimizer: Optimizer,
        parameters: list[Tensor],  # noqa: ARG002  those that were copied count
        kept: tuple[list[Tensor], list[Tensor]],
    ) -> ClipRecord:
        """Move the weights back along the step."""
        moved, old = kept
        updates = self.before(moved)[1]
        if moved:
            torch._foreach_sub_(local(updates), local(old))
        _, factors, record = limit("Update", self.max_norm, optimizer, moved, updates)
        ratio = record.norm_after / total(norms(old, 2.0), 2.0)
        if moved and self.max_norm < math.inf:
            _interpolate_(local(moved), local(old), factors[0])
            _shorten_memory(optimizer, factors[0])
        return replace(record, ratio=ratio)


def _interpolate_(new: list[Tensor], old: list[Tensor], factor: Tensor) -> None:
    """Replace the new tensors by those between: exactly themselves where the factor is 1."""
    own = {(p.dtype, p.device): factor.to(p.device, p.dtype) for p in new}
    torch._foreach_lerp_(old, new, [own[p.dtype, p.device] for p in new])
    torch._foreach_copy_(new, old)


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
