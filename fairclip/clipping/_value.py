"""Limit every component of the gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grad_value_

from fairclip.clipping._gradients import named, total_norm, with_gradients
from fairclip.clipping._mode import ClipRecord, Mode, Parameters


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
        ``torch.nn.utils.clip_grad_value_``, which does the work.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Value
        >>> weight = torch.zeros(4)
        >>> weight.grad = torch.tensor([-3.0, 0.5, 1.0, 2.0])
        >>> Value(max_value=1.0)([weight]).share_clipped
        tensor(0.5000)
        >>> weight.grad
        tensor([-1.0000,  0.5000,  1.0000,  1.0000])
    """

    max_value: float

    def __post_init__(self) -> None:
        if not self.max_value > 0:
            raise ValueError(f"`max_value` must be positive, got {self.max_value}.")

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Clamp every ``.grad`` in place."""
        tensors = with_gradients(named(parameters))
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        norm_before = total_norm(tensors, 2.0)
        n_beyond = torch.zeros((), dtype=torch.int64, device=norm_before.device)
        for gradient in gradients:
            n_beyond += (gradient.abs() > self.max_value).sum().to(n_beyond.device)
        if tensors:  # torch raises where there is none
            clip_grad_value_(tensors, self.max_value)
        n_components = sum(gradient.numel() for gradient in gradients)
        return ClipRecord(
            name="Value",
            norm_before=norm_before,
            norm_after=total_norm(tensors, 2.0),
            threshold=norm_before.new_full((), self.max_value),
            share_clipped=n_beyond / max(n_components, 1),
        )
