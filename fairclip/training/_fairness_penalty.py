"""A penalty on unequal rates, of fairret. Shapes: N training rows, B rows of the batch, K cells."""

import math

from torch import Tensor, nn

from fairclip._extras import require
from fairclip.training._cells import Cells
from fairclip.training._steps import RowLosses, losses_of

# Rates below 1e-20 are zero to fairret, and refused.
_LEAST_LOGIT = -40.0


class FairretStep:
    r"""Add a penalty for unequal true and false positive rates to the loss (fairret).

    .. math::
        L = \frac{1}{B} \sum_i \ell_i
        + s \sum_{y \in \{0, 1\}} \sum_{k : y(k) = y} \Bigl| \frac{r_k}{r_y} - 1 \Bigr|

    with :math:`r_k` the mean predicted probability of class 1 over the batch's rows of cell k, and
    :math:`r_y` that over all its known rows of label y. For y = 1 these are true positive rates,
    for y = 0 false positive ones. Cells and labels that are absent from the batch have no term.
    Rows of an unknown group have no part in the penalty. The library waits for the device in every
    batch.

    Args:
        groups: The code of the (group, label) cell of each training row, as
            ``GroupEncoder(with_label=True)`` makes it; -1 = unknown.
        labels: The label of each training row, 0 or 1.
        strength: s, in units of loss, not negative and finite.

    Shape:
        - ``groups``, ``labels``: ``(N,)`` int64. The model's outputs: ``(B, 1)``, logits of class
          1.

    Raises:
        ModuleNotFoundError: If fairret is not installed: ``pip install "fairclip[baselines]"``.
        ValueError: If ``strength`` or a label is out of range, a code has no row, a cell has two
            labels, or the model has another number of outputs.

    Source:
        Buyl, Defrance, De Bie: fairret: a Framework for Differentiable Fairness Regularization
        Terms (ICLR 2024, https://arxiv.org/abs/2310.17256), as ``fairret.loss.NormLoss`` with p = 1
        of ``TruePositiveRate`` and of ``FalsePositiveRate``. Departure: the library takes the rate
        of an absent cell as 0, a full violation; here its column is left out. The library refuses a
        rate of 0; here the penalty takes logits below -40 as -40.

    Example:
        >>> import torch
        >>> from fairclip.training import FairretStep
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> groups, labels = torch.tensor([0, 1]), torch.ones(2, dtype=torch.int64)
        >>> step = FairretStep(groups, labels, strength=0.1)
        >>> inputs = torch.tensor([[1.0], [0.0]])
        >>> loss = step(model, inputs, labels, groups, lambda outputs, _: 0 * outputs[:, 0])
        >>> bool(model.weight.grad.sign() == model.weight.sign())  # towards equal rates
        True
    """

    def __init__(self, groups: Tensor, labels: Tensor, strength: float = 0.02) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"`strength` must be finite and not negative, got {strength}.")
        self._cells = Cells.of(groups, labels)
        if int(self._cells.labels.min()) < 0 or int(self._cells.labels.max()) > 1:
            raise ValueError(
                f"`labels` must be 0 or 1, got {self._cells.labels.unique().tolist()}."
            )
        self._strength = strength
        loss = require("fairret.loss", "baselines")
        statistic = require("fairret.statistic", "baselines")
        self._penalties = (
            loss.NormLoss(statistic.FalsePositiveRate()),
            loss.NormLoss(statistic.TruePositiveRate()),
        )

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss, without the penalty."""
        outputs = model(inputs)
        if outputs.shape != (len(groups), 1):
            raise ValueError(
                f"The model must return one logit per row, shape {(len(groups), 1)}, "
                f"got {tuple(outputs.shape)}."
            )
        loss = losses_of(outputs, targets, groups, loss_fn).mean()
        (loss + self._strength * self._penalty(outputs, groups)).backward()
        return loss.detach()

    def _penalty(self, outputs: Tensor, groups: Tensor) -> Tensor:
        known = (groups >= 0).nonzero()[:, 0]  # on the CPU
        logits = outputs[known.to(outputs.device, non_blocking=True)].clamp(min=_LEAST_LOGIT)
        groups = groups[known]
        labels = self._cells.labels[groups][:, None].to(logits, non_blocking=True)
        member = self._cells.member(groups).T  # (B, K)
        present = member.any(0)  # (K,)
        total = outputs.new_zeros(())
        for label, penalty in enumerate(self._penalties):
            columns = member[:, present & (self._cells.labels == label)]
            if columns.shape[1]:
                total = total + penalty(logits, columns.to(logits, non_blocking=True), labels)
        return total
