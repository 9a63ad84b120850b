"""Other rates for a `TargetCap`: soft, shrunk, at another cut, of held-back rows. K groups."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairclip import GroupEncoder
from tests.benchmarks._idea_steps import Adjust, ObservedStep, Rates, RowLosses, hits


def soft(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the predicted probability of the true class."""
    return torch.where(targets > 0.5, logits, -logits).double().sigmoid()


def at_cut(cut: float) -> Rates:
    """Return the hits of predictions that are 1 from a score of ``cut`` on."""
    logit = math.log(cut / (1 - cut))
    return lambda logits, targets: hits(logits - logit, targets)


def shrunk(encoder: GroupEncoder, rows_of_label: float) -> Adjust:
    r"""Pull each recall towards that of its label, as if so many rows of it had been added.

    .. math:: \frac{n_k r_k + m r_y}{n_k + m}

    with :math:`n_k` the rows of group k in the data and :math:`r_y` the recall of its label.
    """
    counts, strata = torch.from_numpy(encoder.counts_).double(), torch.as_tensor(encoder.strata_)
    own = counts / (counts + rows_of_label)  # (K,)
    member = (strata[:, None] == strata).double()  # (K, K)

    def adjust(hits: Tensor, rows: Tensor) -> Tensor:
        of_label = (member @ hits) / (member @ rows).clamp(min=1)
        return own * hits + (1 - own) * of_label * rows

    return adjust


class HeldBackStep(ObservedStep):
    """Observe the rows whose code is K or more, and train on the others."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, groups: Tensor, loss_fn: RowLosses
    ) -> Tensor:
        """Fill ``.grad`` from one batch and return its mean loss."""
        n_groups = len(self.state.counts)
        is_held = groups >= n_groups  # (B,)
        outputs = model(inputs)
        losses = loss_fn(outputs, targets)[~is_held]
        rates = hits(outputs.detach().squeeze(1), targets)
        factors = self.observe(rates[is_held], groups[is_held] - n_groups)
        loss = (factors[groups[~is_held]] * losses).mean()
        loss.backward()
        return losses.detach().mean()


def hold_back(codes: NDArray[np.int64], n_groups: int, seed: int) -> NDArray[np.int64]:
    """Return the codes with K added to a fifth of the rows of each group."""
    held = codes.copy()
    rows = np.random.default_rng(seed).permutation(len(codes))
    for k in range(n_groups):
        held[rows[codes[rows] == k][::5]] += n_groups
    return held
