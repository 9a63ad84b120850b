"""Limit the combined gradient by an absolute threshold: the standard modes of clipping.

A mode takes ``parameters`` (tensors, or (name, tensor) pairs as from ``named_parameters()``), acts
on their ``.grad`` in place and returns a :class:`ClipRecord` of scalars, without waiting for the
device: ``Norm(max_norm=1.0)(model.parameters())`` is ``torch.nn.utils.clip_grad_norm_`` with a
record. Modes that remember something are called with the state that their ``init`` returned, or
attached to an optimizer, where they act before every step: ``Norm(1.0).attach(optimizer)``.
:class:`Momentum`, :class:`Update` and :class:`Weights` limit what the optimizer does and work in
this way only.

Under accumulation, attach a mode to clip once a step. One that is called on ``.grad`` after every
backward pass clips the running total: at most ``max_norm`` in the end, earlier micro-batches are
scaled again and again, and their order matters. It keeps float16 sums finite as long as
``max_norm`` and one micro-batch's gradient together stay below 65,504.

A mode of your own that zeroes components (a mask) belongs before a norm mode in a :class:`Chain`,
not after it: measured before they are zeroed, they have used up their part of ``max_norm``. A
component whose gradient is 0 still moves by momentum or weight decay, and :class:`Centralize` makes
it other than 0; a parameter whose ``.grad`` is None does not move.

Clipping is no gradient penalty. A penalty (WGAN-GP) changes the loss: it acts on the gradient of a
critic's output with respect to its *inputs*, is smooth, costs a second backward pass and changes
which function is learnt. Clipping changes the step: it acts on the gradient with respect to the
*parameters*, above a threshold only. A penalised critic can still take long steps and a clipped one
can still grow steep. Clipping works after a double backward pass; for the gradients of groups with
a penalty use ``FairClipper.backward`` with the penalty in each row's loss.

To write your own mode, subclass :class:`Mode` as a frozen dataclass of settings:

Example:
    >>> from dataclasses import dataclass
    >>> import torch
    >>> from torch.nn.utils import get_total_norm
    >>> from fairclip.clipping import Chain, ClipRecord, Gradients, Mode, Norm
    >>> @dataclass(frozen=True)
    ... class Sign(Mode):
    ...     scale: float = 1.0
    ...
    ...     @torch.no_grad()
    ...     def __call__(self, parameters, state=None):
    ...         gradients = Gradients.of(parameters).values
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

from fairclip.clipping._attach import Handle
from fairclip.clipping._centralize import Centralize
from fairclip.clipping._chain import Chain
from fairclip.clipping._gradients import Gradients
from fairclip.clipping._mean_std import MeanStd
from fairclip.clipping._mode import Mode, ModeState, OptimizerMode
from fairclip.clipping._momentum import Momentum
from fairclip.clipping._norm import Norm
from fairclip.clipping._normalize import Normalize
from fairclip.clipping._percentile import Percentile
from fairclip.clipping._record import ByScope, ClipRecord
from fairclip.clipping._scheduled import Scheduled
from fairclip.clipping._schedules import Constant, Cosine, Linear
from fairclip.clipping._smoothness import Smoothness
from fairclip.clipping._unitwise import Unitwise
from fairclip.clipping._update import Update
from fairclip.clipping._value import Value
from fairclip.clipping._weights import Weights
from fairclip.clipping._zscore import ZScore

__all__ = [  # noqa: RUF022  data-flow order
    "Value",
    "Norm",
    "Unitwise",
    "Percentile",
    "MeanStd",
    "ZScore",
    "Normalize",
    "Centralize",
    "Scheduled",
    "Constant",
    "Linear",
    "Cosine",
    "Smoothness",
    "Chain",
    "Momentum",
    "Update",
    "Weights",
    "ClipRecord",
    "ByScope",
    "Gradients",
    "Mode",
    "ModeState",
    "OptimizerMode",
    "Handle",
]
