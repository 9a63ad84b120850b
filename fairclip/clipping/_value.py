"""Limit every component of the gradients."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._gradients import Gradients, locate_nonfinite, plain
from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord

_PIECE = 2**16  # components: they stay in a core's cache from one operation to the next


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
        values, limit = gradients.values, self.max_value
        measured = [_measure(piece, limit) for piece in _pieces(values)] or [torch.zeros(4)]
        if values:
            torch._foreach_clamp_min_(values, -limit)
            torch._foreach_clamp_max_(values, limit)
        device = measured[0].device
        sums = torch.stack([each.to(device, torch.float64) for each in measured]).sum(0)
        before, after, both, n_beyond = sums.unbind()
        n_components = sum(value.numel() for value in values)
        return ClipRecord(
            name="Value",
            norm_before=before.sqrt(),
            norm_after=after.sqrt(),
            threshold=before.new_full((), limit),
            share_clipped=n_beyond / max(n_components, 1),
            cosine=both / (before * after).sqrt(),
            first_nonfinite=locate_nonfinite(before, values),
            parameters=gradients.labels(),
        )


def _pieces(values: list[Tensor]) -> Iterator[Tensor]:
    """Yield all components, small gradients together: a copy costs less than a call for each."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for value in values:
        by_kind.setdefault((value.dtype, value.device), []).append(value)
    for alike in by_kind.values():
        together: list[Tensor] = []
        n_together = 0
        for value in alike:
            if value.numel() >= _PIECE or hasattr(value, "full_tensor"):  # a DTensor has no copy
                yield value
                continue
            together.append(value)
            n_together += value.numel()
            if n_together >= _PIECE:
                yield torch._C._nn.flatten_dense_tensors(together)
                together, n_together = [], 0
        if together:
            yield torch._C._nn.flatten_dense_tensors(together)


def _measure(piece: Tensor, limit: float) -> Tensor:
    """Return the squares before and after, their product, and the count beyond it, (4,)."""
    beyond = torch.nn.functional.hardshrink(piece, limit).sign()  # NaN is beyond nothing
    clamped = piece.clamp(-limit, limit)
    if piece.dtype.itemsize < 4:
        piece, clamped, beyond = piece.float(), clamped.float(), beyond.float()
    dots = _dot(piece, piece), _dot(clamped, clamped), _dot(piece, clamped), _dot(beyond, beyond)
    return torch.stack(dots)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if hasattr(a, "full_tensor"):
        return plain((a * b).sum())
    return torch.dot(a.flatten(), b.flatten())
