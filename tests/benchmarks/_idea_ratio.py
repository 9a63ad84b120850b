"""A target sets the ratio of a `NormCap`: gradients decide the shape, the target the strength."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from fairclip import GroupEncoder, NormCap
from tests.benchmarks._idea_steps import Contributions, Factors, hits

_LEAST, _MOST = 0.1, 8.0


def ratio_by_target(
    cap: NormCap, encoder: GroupEncoder, gap: float, rate: float, smoothing: float = 0.98
) -> Factors:
    r"""Return the factors of ``cap`` with a ratio that follows the largest gap within a label.

    .. math:: \log c \leftarrow \log c - \eta\,(\max_y(\max_k r_k - \min_k r_k) - \gamma)

    between 0.1 and 8, from 8 on, with :math:`r_k` the smoothed recalls of label y's groups.
    """
    state = cap.init(encoder.counts_, encoder.strata_)
    labels = torch.as_tensor(encoder.strata_)  # (K,)
    n_groups = len(labels)
    sums, weights = torch.zeros(n_groups).double(), torch.zeros(n_groups).double()
    log_ratio = math.log(_MOST)

    def factors(batch: Contributions) -> Tensor:
        nonlocal log_ratio
        member = (batch.groups == torch.arange(n_groups)[:, None]).double()  # (K, B)
        right, present = member @ hits(batch.logits, batch.targets), batch.counts > 0
        decay = torch.where(present, smoothing, 1.0)
        sums.mul_(decay).add_(right / batch.counts.clamp(min=1))
        weights.mul_(decay).add_(present)
        seen = weights > 0
        recalls = sums / weights.clamp(min=1)
        widest = max(
            float(recalls[seen & (labels == y)].max() - recalls[seen & (labels == y)].min())
            for y in labels[seen].unique()
        )
        log_ratio -= rate * (widest - gap)
        log_ratio = min(max(log_ratio, math.log(_LEAST)), math.log(_MOST))
        capped = replace(cap, max_ratio=math.exp(log_ratio))
        return batch.cap(capped, batch.gradients.norm(dim=1), state)

    return factors
