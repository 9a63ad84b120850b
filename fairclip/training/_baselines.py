"""Steps that a cap is compared with. Shapes: B rows of the batch, K groups, P parameters."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fairclip.clipping import Mode, ModeState
from fairclip.training._device import seeded
from fairclip.training._steps import RowLosses, checked_losses, weighed_mean


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
        self._weights = weights.detach().cpu()  # (K,)
        self._clip = clip
        self._clip_state: ModeState | None = None

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        losses = checked_losses(model, inputs, targets, groups, loss_fn)  # (B,)
        weighed_mean(losses, self._weights, groups).backward()
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
        one group per step; here every group of the batch moves at once, as in the authors' code
        (https://github.com/kohpangwei/group_DRO, ``loss.py``), without its adjustment for the size
        of a group.
    """

    def __init__(self, n_groups: int, step_size: float = 0.01) -> None:
        _check_n_groups(n_groups)
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
        losses = checked_losses(model, inputs, targets, groups, loss_fn)  # (B,)
        group_losses = _means(losses, groups, self._n_groups)  # (K,)
        log_weights = self._log_weights.to(losses, non_blocking=True)
        log_weights = (log_weights + self._step_size * group_losses.detach()).log_softmax(0)
        (log_weights.exp() @ group_losses).backward()
        self._log_weights = log_weights
        return losses.detach().mean()


class AggregatedStep:
    r"""Combine the gradients of the groups' mean losses by an aggregator of Jacobians.

    .. math:: g = \mathcal{A}(J), \qquad J_k = \nabla_\theta \ell_k

    with :math:`\ell_k` the mean loss of group k in the batch. A group that is absent from the batch
    has no row in J: in the convex hull of the gradients, where MGDA looks for the shortest, a row
    of zeros would be the shortest. Rows of an unknown group have no part, and a batch of such rows
    alone has the gradient zero.

    Args:
        n_groups: K.
        aggregator: Takes one row a group that is present, and returns the gradient. Those of
            TorchJD fit: ``torchjd.aggregation.UPGrad()``. One that keeps a state for each row does
            not, as the rows are not of the same groups in every batch.
        seed: Of what the aggregator draws from torch's global generators, which are left as they
            were.
        scales: What the row of each group is multiplied by, dimensionless and positive. None: 1.

    Shape:
        - ``aggregator``: ``(K', P)`` to ``(P,)``, with K' at most K. ``scales``: ``(K,)``.

    Raises:
        ValueError: If ``n_groups`` is not positive, or ``scales`` are not one finite, positive
            number per group.

    Source:
        Quinton, Rey: Jacobian Descent For Multi-Objective Optimization
        (https://arxiv.org/abs/2406.16232): one objective a group, and the update is the
        aggregation of their gradients. Departure: the Jacobian of a batch has the present groups
        alone.

    Example:
        >>> import torch
        >>> from fairclip.training import AggregatedStep
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> inputs, targets = torch.tensor([[1.0], [1.0], [3.0]]), torch.ones(3)
        >>> step = AggregatedStep(2, lambda jacobian: jacobian.mean(0))
        >>> groups = torch.tensor([0, 0, 1])
        >>> loss = step(model, inputs, targets, groups, lambda outputs, targets: outputs[:, 0])
        >>> model.weight.grad
        tensor([[2.]])
    """

    def __init__(
        self,
        n_groups: int,
        aggregator: Callable[[Tensor], Tensor],
        seed: int = 0,
        scales: Tensor | None = None,
    ) -> None:
        _check_n_groups(n_groups)
        scales = torch.ones(n_groups) if scales is None else scales.detach().cpu()
        if scales.shape != (n_groups,) or not bool((scales.isfinite() & (scales > 0)).all()):
            raise ValueError(f"`scales` must be finite, positive and ({n_groups},), got {scales}.")
        self._n_groups = n_groups
        self._scales = scales
        self._aggregator = aggregator
        self._seeds = np.random.default_rng(seed)

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        losses = checked_losses(model, inputs, targets, groups, loss_fn)  # (B,)
        scales = self._scales.to(losses, non_blocking=True)
        group_losses = scales * _means(losses, groups, self._n_groups)  # (K,)
        parameters = [p for p in model.parameters() if p.requires_grad]
        rows = [
            torch.autograd.grad(
                group_losses[k], parameters, retain_graph=True, materialize_grads=True
            )
            for k in groups[groups >= 0].unique().tolist()  # on the CPU
        ]
        combined = [torch.zeros_like(p) for p in parameters]
        if rows:
            jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            with seeded(int(self._seeds.integers(2**63)), jacobian.device):
                gradient = self._aggregator(jacobian)  # (P,)
            combined = list(gradient.split([p.numel() for p in parameters]))
        for parameter, part in zip(parameters, combined, strict=True):
            parameter.grad = part.view_as(parameter)
        return losses.detach().mean()


def _means(losses: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Return the mean loss of each group, 0 for those that are absent, ``(K,)``."""
    # A product with a mask, because adding by index has no fixed order on a GPU.
    member = groups[None, :] == torch.arange(n_groups)[:, None]  # (K, B)
    counts = member.sum(1).clamp(min=1)  # (K,)
    sums = member.to(losses, non_blocking=True) @ losses  # (K,)
    return sums / counts.to(losses, non_blocking=True)


def _check_n_groups(n_groups: int) -> None:
    if n_groups < 1:
        raise ValueError(f"`n_groups` must be positive, got {n_groups}.")
