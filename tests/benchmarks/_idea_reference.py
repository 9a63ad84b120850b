"""Compare with the group that has the highest smoothed loss. Shapes: K groups."""

from dataclasses import replace

import torch
from torch import Tensor

from fairclip import GroupEncoder, NormCap
from tests.benchmarks._idea_steps import Contributions, Factors


def highest_loss(cap: NormCap, encoder: GroupEncoder) -> Factors:
    """Return the factors of ``cap``, of all groups, with this reference."""
    # One state for each group that may be the reference: all see the same norms.
    caps = [replace(cap, reference=k) for k in range(len(encoder.counts_))]
    states = [one.init(encoder.counts_, encoder.strata_) for one in caps]
    sums, weights = torch.zeros(len(caps)), torch.zeros(len(caps))

    def factors(batch: Contributions) -> Tensor:
        norms, present = batch.gradients.norm(dim=1), batch.counts > 0
        known = batch.groups >= 0
        losses = torch.zeros(len(caps)).index_add(0, batch.groups[known], batch.losses[known])
        decay = torch.where(present, cap.smoothing, 1.0)
        sums.mul_(decay).add_(losses / batch.counts.clamp(min=1))
        weights.mul_(decay).add_(present.float())
        highest = int((sums / weights.clamp(min=1e-9)).argmax())
        found = [batch.cap(one, norms, state) for one, state in zip(caps, states, strict=True)]
        return found[highest]

    return factors
