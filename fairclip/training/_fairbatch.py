"""FairBatch with weights. Shapes: N training rows, B rows of the batch, K cells."""

import torch
from torch import Tensor, nn

from fairclip.training._cells import Cells
from fairclip.training._steps import RowLosses, checked_losses, weighed_mean


class FairBatchStep:
    r"""Move weight within a label to the group with the higher loss, once an epoch (FairBatch).

    .. math:: L = \frac{1}{B} \sum_i \frac{\lambda_{k(i)}}{n_{k(i)} / n_{y(i)}} \ell_i

    with :math:`n_k` the training rows of cell k, :math:`n_y` those of its label, and
    :math:`\lambda_k` the share of the cell in its label: :math:`n_k / n_y` at first, when all
    weights are 1. Before each further epoch, in the label where the mean losses of the cells are
    furthest apart, the cell with the highest gains :math:`\alpha` and the one with the lowest gives
    it away; a share does not fall below 0.

    An epoch is over when as many known rows have been seen as there are. Rows of an unknown group
    weigh 1 and move no share; a cell without a row in the epoch is not compared.

    Args:
        groups: The code of the (group, label) cell of each training row, as
            ``GroupEncoder(with_label=True)`` makes it; -1 = unknown.
        labels: The label of each training row.
        step_size: :math:`\alpha`, a share in (0, 1].

    Shape:
        - ``groups``, ``labels``: ``(N,)`` int64.

    Raises:
        ValueError: If ``step_size`` is out of range, a code has no row, or a cell has two labels.

    Source:
        Roh, Lee, Whang, Suh: FairBatch: Batch Selection for Model Fairness (ICLR 2021,
        https://arxiv.org/abs/2012.01696), the rule for equalized odds, as in the authors' code
        (https://github.com/yuji-roh/fairbatch, ``FairBatchSampler.py``). Departures: they draw
        batches with these shares, here the losses are weighted, so that the batches are those of
        other steps; their cell losses are of the whole data set, measured before every epoch, here
        of the batches of the epoch before, so that the first epoch moves nothing; their code has
        two groups, for which the rule above is theirs.

    Example:
        >>> import torch
        >>> from fairclip.training import FairBatchStep
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> model.weight.data.fill_(1.0)
        tensor([[1.]])
        >>> groups, labels = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64)
        >>> step = FairBatchStep(groups, labels, step_size=0.1)
        >>> inputs = torch.tensor([[1.0], [1.0], [3.0], [3.0]])
        >>> for _ in range(2):  # two epochs of one batch
        ...     loss = step(model, inputs, labels, groups, lambda outputs, _: outputs[:, 0])
        >>> step.shares
        tensor([0.4000, 0.6000], dtype=torch.float64)
    """

    def __init__(self, groups: Tensor, labels: Tensor, step_size: float = 0.01) -> None:
        if not 0 < step_size <= 1:
            raise ValueError(f"`step_size` must be in (0, 1], got {step_size}.")
        self._cells = Cells.of(groups, labels)
        self._step_size = step_size
        counts = self._cells.counts.double()  # (K,)
        self._at_first = counts / (self._cells.same_label().double() @ counts)  # (K,)
        self._shares = self._at_first.clone()  # (K,)
        # Of the epoch so far.
        self._n_seen = torch.zeros_like(self._cells.counts)  # (K,)
        self._sums = torch.zeros(len(counts))  # (K,)

    @property
    def shares(self) -> Tensor:
        """The share of each cell in its label, ``(K,)``; those of a label sum to 1."""
        return self._shares.clone()

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        if int(self._n_seen.sum()) >= int(self._cells.counts.sum()):
            self._move()
            self._n_seen.zero_()
            self._sums.zero_()
        losses = checked_losses(model, inputs, targets, groups, loss_fn)  # (B,)
        weighed_mean(losses, self._shares / self._at_first, groups).backward()
        member = self._cells.member(groups)  # (K, B)
        self._n_seen += member.sum(1)
        self._sums = self._sums.to(losses.device, non_blocking=True)
        self._sums += member.to(self._sums, non_blocking=True) @ losses.detach().to(self._sums)
        return losses.detach().mean()

    def _move(self) -> None:
        """Move shares in one label; the device was waited for between two steps."""
        means = (self._sums.double().cpu() / self._n_seen).tolist()  # nan where no row was seen
        gaps = {}
        for label in self._cells.labels.unique().tolist():
            seen = ((self._cells.labels == label) & (self._n_seen > 0)).nonzero()[:, 0].tolist()
            if seen:
                low, high = min(seen, key=means.__getitem__), max(seen, key=means.__getitem__)
                gaps[low, high] = means[high] - means[low]
        low, high = max(gaps, key=gaps.__getitem__)  # one cell where there is no gap
        moved = self._shares[low].clamp(max=self._step_size)
        self._shares[low] -= moved
        self._shares[high] += moved
