"""FairGrad for equalized odds. Shapes: N training rows, B rows of the batch, K cells."""

import math

import torch
from torch import Tensor, nn

from fairclip.training._cells import Cells
from fairclip.training._steps import RowLosses, losses_of, weighed_mean


class FairGradStep:
    r"""Weight cells by how far their accuracy is from that of their label (FairGrad).

    .. math::
        F_k = a_k - a_{y(k)}, \qquad
        \lambda_k \leftarrow \max(0, \lambda_k + \eta (F_k - \epsilon)), \qquad
        \delta_k \leftarrow \max(0, \delta_k - \eta (F_k + \epsilon))

    .. math::
        w_k = 1 + \frac{1}{P_k} \Bigl( \frac{P_k}{P_{y(k)}} \sum_{j : y(j) = y(k)} m_j
        - m_k \Bigr), \qquad m = \lambda - \delta, \qquad
        L = \frac{1}{B} \sum_i w_{k(i)} \ell_i

    with :math:`a_k` the share of the batch's rows of cell k that the model predicts correctly,
    :math:`a_y` that of all known rows of label y, and P the share of the cell or label in the known
    training rows. All weights are 1 at first; they can become negative, and the model is then
    driven to err on the cell. A cell that is absent from the batch keeps its last F, 0 at first.
    Rows of an unknown group weigh 1 and have no part in F.

    Args:
        groups: The code of the (group, label) cell of each training row, as
            ``GroupEncoder(with_label=True)`` makes it; -1 = unknown.
        labels: The label of each training row, a code of a class.
        step_size: :math:`\eta`, dimensionless and positive.
        slack: :math:`\epsilon`, the distance in accuracy that is left alone, a share in [0, 1].

    Shape:
        - ``groups``, ``labels``: ``(N,)`` int64. The model's outputs: ``(B, 1)``, logits of class
          1, or ``(B, C)``.

    Raises:
        ValueError: If ``step_size`` or ``slack`` is out of range, a code has no row, or a cell has
            two labels.

    Source:
        Maheshwari, Perrot: FairGrad: Fairness Aware Gradient Descent (TMLR 2023,
        https://arxiv.org/abs/2206.10923), the update for equalized odds, as in the authors' library
        (https://github.com/saist1993/fairgrad, ``fairness_loss.py`` and
        ``fairness_functions.py``). Departure: no history is kept.

    Example:
        >>> import torch
        >>> from fairclip.training import FairGradStep
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> model.weight.data.fill_(1.0)
        tensor([[1.]])
        >>> groups, labels = torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.int64)
        >>> step = FairGradStep(groups, labels, step_size=0.1)
        >>> inputs = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])  # right, right, wrong, wrong
        >>> loss = step(model, inputs, labels, groups, lambda outputs, _: outputs[:, 0])
        >>> step.weights
        tensor([0.9000, 1.1000])
    """

    def __init__(
        self, groups: Tensor, labels: Tensor, step_size: float = 0.001, slack: float = 0.0
    ) -> None:
        if not 0 < step_size < math.inf:
            raise ValueError(f"`step_size` must be positive and finite, got {step_size}.")
        if not 0 <= slack <= 1:
            raise ValueError(f"`slack` must be in [0, 1], got {slack}.")
        self._cells = Cells.of(groups, labels)
        self._step_size = step_size
        self._slack = slack
        n_cells = len(self._cells.counts)
        self._levels = torch.zeros(n_cells)  # F, (K,)
        self._duals = torch.zeros(2, n_cells)  # lambda and delta

    @property
    def weights(self) -> Tensor:
        """The weight of each cell, ``(K,)``, 1 at first."""
        net = self._duals[0] - self._duals[1]  # (K,)
        same = self._cells.same_label().to(net, non_blocking=True)  # (K, K)
        counts = self._cells.counts.to(net, non_blocking=True)  # (K,)
        within = counts / (same @ counts)  # (K,)
        return 1 + (within * (same @ net) - net) * counts.sum() / counts

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        outputs = model(inputs)
        losses = losses_of(outputs, targets, groups, loss_fn)  # (B,)
        self._update(outputs.detach(), groups)
        weighed_mean(losses, self.weights, groups).backward()
        return losses.detach().mean()

    def _update(self, outputs: Tensor, groups: Tensor) -> None:
        predicted = outputs[:, 0] >= 0 if outputs.shape[1] == 1 else outputs.argmax(1)  # (B,)
        # An unknown row has the label of the last cell here, and is no member of any below.
        labels = self._cells.labels[groups].to(outputs.device, non_blocking=True)  # (B,)
        last, duals = (t.to(outputs.device, non_blocking=True) for t in (self._levels, self._duals))
        correct = (predicted == labels).to(last)  # (B,)
        of_cells = self._cells.member(groups).to(last, non_blocking=True)  # (K, B)
        of_labels = self._cells.same_label().to(last, non_blocking=True) @ of_cells  # (K, B)
        levels = _mean(of_cells, correct) - _mean(of_labels, correct)  # (K,), nan where absent
        self._levels = torch.where(levels.isnan(), last, levels)
        moves = torch.stack([self._levels - self._slack, -self._levels - self._slack])  # (2, K)
        self._duals = (duals + self._step_size * moves).clamp(min=0)


def _mean(member: Tensor, values: Tensor) -> Tensor:
    return member @ values / member.sum(1)
