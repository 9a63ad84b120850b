"""From one batch to final gradients. Shapes: B rows of the batch."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor, nn

from fairclip.capping import TargetCap
from fairclip.clipper import FairClipper
from fairclip.gradients import with_rest

RowLosses: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Step(Protocol):
    """Anything that leaves final gradients in ``.grad``; the optimizer's step follows.

    ``loss_fn(outputs, targets)`` returns one loss per row ``(B,)``, ``groups`` are int64 codes on
    the CPU with -1 for an unknown group. The step returns the mean of these losses, detached and
    not weighted by group, so that the loss curves of different steps can be compared.
    """

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""


class FairStep:
    """Bound the groups' contributions with a `FairClipper`, then clip.

    Args:
        clipper: Wraps the model that is trained; its trace records every step.
    """

    def __init__(self, clipper: FairClipper) -> None:
        self.clipper = clipper

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        with self.clipper.watch(groups):
            loss = checked_losses(model, inputs, targets, groups, loss_fn).mean()
            loss.backward()
        self.clipper.clip_grad_()
        return loss.detach()


class TargetStep:
    """Weigh rows by a `TargetCap` that looks at the batch's own predictions, then clip.

    The recalls are those of the model before the step, in the mode it trains in.

    Args:
        clipper: With a `TargetCap`; wraps the model that is trained.
        predict: Returns what `FairClipper.observe` takes as ``predicted``, for a batch's outputs.
            Class codes: ``lambda outputs: outputs.argmax(1)``, or ``outputs.squeeze(1) >= 0`` of
            one logit. Probabilities: ``outputs.softmax(1)``, or ``outputs.squeeze(1).sigmoid()``.

    Raises:
        TypeError: If the cap of ``clipper`` is no `TargetCap`.

    Example:
        >>> import torch
        >>> from fairclip import FairClipper, TargetCap
        >>> from fairclip.training import TargetStep
        >>> model = torch.nn.Linear(2, 1)
        >>> clipper = FairClipper(model, TargetCap("worst_cell", gap=0.02), group_counts=[80, 40])
        >>> step = TargetStep(clipper, lambda outputs: outputs.squeeze(1) >= 0)
        >>> loss_fn = lambda outputs, targets: (outputs.squeeze(1) - targets).square()
        >>> loss = step(model, torch.ones(3, 2), torch.ones(3), torch.tensor([0, 0, 1]), loss_fn)
        >>> clipper.trace.to_frame()["factor[0]"].item()
        1.0
    """

    def __init__(self, clipper: FairClipper, predict: Callable[[Tensor], Tensor]) -> None:
        if not isinstance(clipper.cap, TargetCap):
            raise TypeError(f"`clipper` must have a TargetCap, got {clipper.cap!r}.")
        self.clipper = clipper
        self._predict = predict

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        outputs = model(inputs)
        losses = losses_of(outputs, targets, groups, loss_fn)  # (B,)
        self.clipper.observe(self._predict(outputs.detach()), targets, groups)
        self.clipper.weigh(losses, groups).mean().backward()
        self.clipper.clip_grad_()
        return losses.detach().mean()


def checked_losses(
    model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
) -> Tensor:
    """Return one loss per row, ``(B,)``."""
    return losses_of(model(inputs), targets, groups, loss_fn)


def losses_of(outputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses) -> Tensor:
    """Return one loss per row of outputs, ``(B,)``."""
    losses = loss_fn(outputs, targets)
    if losses.shape != groups.shape:  # (B, 1) would be spread over (B, B) without a word
        raise ValueError(
            f"`loss_fn` must return one loss per row, shape {tuple(groups.shape)}, "
            f"got {tuple(losses.shape)}."
        )
    return losses


def weighed_mean(losses: Tensor, weights: Tensor, groups: Tensor) -> Tensor:
    """Return the mean of the losses (B,), each times its group's weight (K,); unknown rows weigh 1.

    The weights and the codes may be on other devices.
    """
    of_rows: Tensor = with_rest(weights)[
        groups.to(weights.device, non_blocking=True)
    ]  # -1 reads the last
    return (of_rows.to(losses, non_blocking=True) * losses).mean()
