"""From one batch to final gradients. Shapes: B rows of the batch, d features, K groups."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from fairclip.clipper import FairClipper
from fairclip.clipping import Mode, ModeState

RowLosses: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Step(Protocol):
    """Anything that leaves final gradients in ``.grad``; the optimizer's step follows.

    ``loss_fn(outputs, targets)`` returns one loss per row ``(B,)``, ``groups`` are int64 codes on
    the CPU with -1 for an unknown group. The step returns the mean loss of the rows, detached and
    unweighted, so that the loss curves of different steps can be compared.
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
            loss = _losses(model, inputs, targets, groups, loss_fn).mean()
            loss.backward()
        self.clipper.clip_grad_()
        return loss.detach()


class WeightedStep:
    r"""Weight every row by its group: the mean over the batch of :math:`w_{k(i)} \ell_i`.

    Rows of an unknown group weigh 1.

    Args:
        weights: One weight per group, dimensionless and not negative. Scaled so that their mean
            over the rows of the data set is 1, they leave the meaning of the learning rate alone.
        clip: A mode of ``fairclip.clipping`` applied to the weighted gradient. None: no clip.

    Shape:
        - ``weights``: ``(K,)``.

    Raises:
        ValueError: If ``weights`` is not one finite, non-negative number per group.

    Example:
        >>> import torch
        >>> from fairclip.training import WeightedStep
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> inputs, targets, groups = torch.ones(3, 1), torch.ones(3), torch.tensor([0, 0, 1])
        >>> step = WeightedStep(torch.tensor([0.5, 2.0]))
        >>> loss = step(model, inputs, targets, groups, lambda outputs, targets: outputs[:, 0])
        >>> model.weight.grad
        tensor([[1.]])
    """

    def __init__(self, weights: Tensor, clip: Mode | None = None) -> None:
        if weights.ndim != 1 or not bool((weights.isfinite() & (weights >= 0)).all()):
            raise ValueError(f"`weights` must be finite, not negative and (K,), got {weights}.")
        weights = weights.detach().cpu()
        # The code -1 reads the last entry: the weight of unknown rows.
        self._weights = torch.cat([weights, weights.new_ones(1)])  # (K + 1,)
        self._clip = clip
        self._clip_state: ModeState | None = None

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        losses = _losses(model, inputs, targets, groups, loss_fn)  # (B,)
        weights = self._weights[groups].to(losses, non_blocking=True)  # (B,)
        (weights * losses).mean().backward()
        if self._clip is not None:
            if self._clip_state is None:
                self._clip_state = self._clip.init(model.named_parameters())
            self._clip(model.named_parameters(), self._clip_state)
        return losses.detach().mean()


class GroupDROStep:
    r"""Weight the groups' mean losses by how badly they do (group DRO).

    .. math:: q_k \leftarrow \frac{q_k e^{\eta \ell_k}}{\sum_j q_j e^{\eta \ell_j}}, \qquad
              L = \sum_k q_k \ell_k

    with :math:`\ell_k` the mean loss of group k in the batch and :math:`q_k = 1/K` at the start.
    A group that is absent from the batch has :math:`\ell_k = 0`. Rows of an unknown group belong
    to no :math:`\ell_k` and have no part in the update.

    Args:
        n_groups: K.
        step_size: :math:`\eta`, per unit of loss, positive.

    Raises:
        ValueError: If ``n_groups`` or ``step_size`` is not positive.

    Source:
        Sagawa, Koh, Hashimoto, Liang: Distributionally Robust Neural Networks for Group Shifts
        (ICLR 2020, https://arxiv.org/abs/1911.08731), Algorithm 1. Departure: the algorithm draws
        one group per step; here every group of the batch moves at once.
    """

    def __init__(self, n_groups: int, step_size: float = 0.01) -> None:
        if n_groups < 1:
            raise ValueError(f"`n_groups` must be positive, got {n_groups}.")
        if not step_size > 0:
            raise ValueError(f"`step_size` must be positive, got {step_size}.")
        self._n_groups = n_groups
        self._step_size = step_size
        self._log_weights = torch.zeros(n_groups).log_softmax(0)  # (K,)

    @property
    def weights(self) -> Tensor:
        """The groups' weights q, ``(K,)``; they sum to 1."""
        return self._log_weights.exp()

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        losses = _losses(model, inputs, targets, groups, loss_fn)  # (B,)
        # A product with a mask, because adding by index has no fixed order on a GPU.
        member = groups[None, :] == torch.arange(self._n_groups)[:, None]  # (K, B)
        mean = member / member.sum(1, keepdim=True).clamp(min=1)
        group_losses = mean.to(losses, non_blocking=True) @ losses  # (K,)
        log_weights = self._log_weights.to(losses, non_blocking=True)
        log_weights = (log_weights + self._step_size * group_losses.detach()).log_softmax(0)
        (log_weights.exp() @ group_losses).backward()
        self._log_weights = log_weights
        return losses.detach().mean()


def _losses(
    model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
) -> Tensor:
    losses = loss_fn(model(inputs), targets)
    if losses.shape != groups.shape:  # (B, 1) would be spread over (B, B) without a word
        raise ValueError(
            f"`loss_fn` must return one loss per row, shape {tuple(groups.shape)}, "
            f"got {tuple(losses.shape)}."
        )
    return losses
