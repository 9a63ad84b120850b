"""From one batch to final gradients. Shapes: B rows of the batch."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor, nn

from fairclip.clipper import FairClipper

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


def checked_losses(
    model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
) -> Tensor:
    """Return one loss per row, ``(B,)``."""
    losses = loss_fn(model(inputs), targets)
    if losses.shape != groups.shape:  # (B, 1) would be spread over (B, B) without a word
        raise ValueError(
            f"`loss_fn` must return one loss per row, shape {tuple(groups.shape)}, "
            f"got {tuple(losses.shape)}."
        )
    return losses
