"""Limit the velocity that an optimizer carries from step to step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip.clipping._attach import labels
from fairclip.clipping._mode import OptimizerMode
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._scopes import Scopes

_BUFFERS = ("momentum_buffer", "exp_avg")


@dataclass(frozen=True, slots=True)
class Momentum(OptimizerMode):
    r"""Scale an optimizer's velocity down to at most ``max_norm`` after every step.

    .. math:: m \leftarrow m \cdot \min\!\left(1, \frac{c}{\lVert m \rVert_2}\right)

    :math:`m` is all momentum buffers as one vector: SGD's, RMSprop's and Muon's
    ``momentum_buffer``, the ``exp_avg`` of Adam and its relatives. The step that was just taken
    stays; the next one starts from a bounded velocity, so a spike does not go on for the
    :math:`1 / (1 - \mu)` steps that a buffer remembers. A norm of inf turns finite components into
    0 and others into NaN, one of NaN makes all NaN. Nothing waits for the device.

    Args:
        max_norm: The threshold :math:`c`, positive, in the buffers' own units: SGD's is a *sum* of
            gradients, up to :math:`1 / (1 - \mu)` times as long as one; Adam's an average of them,
            before the correction of its first steps; RMSprop's a sum of normalised gradients. inf
            measures and changes nothing.

    Returns:
        By ``attach``, a handle whose ``record`` holds the norms of the velocity.

    Raises:
        ValueError: If ``max_norm`` is not positive.
        RuntimeError: At the first step, if the optimizer keeps no such buffer: before it where all
            parameter groups have ``momentum=0``, otherwise after it, and its result stays.

    Source:
        The definition is fairclip's own: :class:`Norm`'s rule, applied to the velocity.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Momentum
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> handle = Momentum(max_norm=1.0).attach(optimizer)
        >>> weight.grad = torch.tensor([30.0, 40.0])
        >>> optimizer.step()
        >>> optimizer.state[weight]["momentum_buffer"]
        tensor([0.6000, 0.8000])
        >>> handle.record.norm_before
        tensor(50.)
    """

    max_norm: float

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"`max_norm` must be positive, got {self.max_norm}.")

    def check(self, optimizer: Optimizer) -> None:
        """Raise where the optimizer was made without momentum."""
        groups, kept = optimizer.param_groups, optimizer.state.values()
        without = all(group.get("momentum") == 0 and "betas" not in group for group in groups)
        if without and not any(key in state for state in kept for key in _BUFFERS):
            raise _keeps_none(optimizer)

    def after(
        self,
        optimizer: Optimizer,
        parameters: list[Tensor],
        kept: Any,  # noqa: ARG002  nothing was
    ) -> ClipRecord:
        """Scale the buffers in place."""
        held, buffers = [], []
        for parameter in parameters:
            state = optimizer.state.get(parameter, {})
            for key in _BUFFERS:
                if state.get(key) is not None:
                    held.append(parameter)
                    buffers.append(_dense(state, key))
        if not buffers and any(parameter.grad is not None for parameter in parameters):
            raise _keeps_none(optimizer)
        names = labels(optimizer, held)
        velocity = Scopes(["all"], [None], [len(buffers)], buffers, names, 2.0)
        factors = torch.ones_like(velocity.before)
        if self.max_norm < math.inf:
            factors = (self.max_norm / velocity.before).clamp(max=1.0)
            velocity.scale_(factors)
        return velocity.record("Momentum", factors, torch.full_like(factors, self.max_norm))


def _keeps_none(optimizer: Optimizer) -> RuntimeError:
    return RuntimeError(
        f"{type(optimizer).__name__} keeps no momentum that `Momentum` could limit: make it with "
        "momentum (`SGD(..., momentum=0.9)`), or attach `Update`, which works with every optimizer."
    )


def _dense(state: dict[str, Any], key: str) -> Tensor:
    """Return a buffer, of a sparse one the values: what scales them scales it."""
    buffer: Tensor = state[key]
    if buffer.is_sparse:
        buffer = state[key] = buffer.coalesce()
        return buffer.values()
    return buffer
