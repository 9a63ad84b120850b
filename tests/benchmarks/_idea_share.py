"""Bound the projection of each contribution on the update instead of its norm."""

from torch import Tensor

from fairclip import GroupEncoder, NormCap
from tests.benchmarks._idea_steps import Contributions, Factors


def shares(batch: Contributions) -> Tensor:
    r"""Return :math:`\max(0, \langle g_k, t \rangle / \lVert t \rVert)`, (K,)."""
    found: Tensor = batch.gradients @ batch.total / batch.total.norm()
    return found.clamp(min=0)


def by_share(cap: NormCap, encoder: GroupEncoder) -> Factors:
    """Return the factors of ``cap`` on shares."""
    state = cap.init(encoder.counts_, encoder.strata_)
    return lambda batch: batch.cap(cap, shares(batch), state)
