"""Limit the combined gradient by an absolute threshold: the standard modes of clipping.

A mode takes ``parameters`` (tensors, or (name, tensor) pairs as from ``named_parameters()``), acts
on their ``.grad`` in place and returns a :class:`ClipRecord` of scalars, without waiting for the
device: ``Norm(max_norm=1.0)(model.parameters())`` is ``torch.nn.utils.clip_grad_norm_`` with a
record. Modes that remember something are called with the state that their ``init`` returned.

To write your own mode, subclass :class:`Mode` as a frozen dataclass of settings:

Example:
    >>> from dataclasses import dataclass
    >>> import torch
    >>> from torch.nn.utils import get_total_norm
    >>> from fairclip.clipping import Chain, ClipRecord, Mode, Norm
    >>> @dataclass(frozen=True)
    ... class Sign(Mode):
    ...     scale: float = 1.0
    ...
    ...     @torch.no_grad()
    ...     def __call__(self, parameters, state=None):
    ...         gradients = [p.grad for p in parameters if p.grad is not None]
    ...         before = get_total_norm(gradients)
    ...         for gradient in gradients:
    ...             gradient.sign_().mul_(self.scale)
    ...         return ClipRecord(
    ...             name="Sign",
    ...             norm_before=before,
    ...             norm_after=get_total_norm(gradients),
    ...             threshold=before.new_full((), self.scale),
    ...             share_clipped=before.new_ones(()),
    ...         )
    >>> weight = torch.zeros(2)
    >>> weight.grad = torch.tensor([-5.0, 0.1])
    >>> record = Chain(Sign(scale=0.3), Norm(max_norm=1.0))([weight])
    >>> weight.grad
    tensor([-0.3000,  0.3000])
"""

from fairclip.clipping._chain import Chain
from fairclip.clipping._mode import Mode, ModeState
from fairclip.clipping._norm import Norm
from fairclip.clipping._record import ByScope, ClipRecord
from fairclip.clipping._value import Value

__all__ = ["Value", "Norm", "Chain", "ClipRecord", "ByScope", "Mode", "ModeState"]  # noqa: RUF022  data-flow order
