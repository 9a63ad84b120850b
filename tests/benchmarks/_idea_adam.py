"""Bound the norms of the contributions as Adam scales them."""

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim import Optimizer

from fairclip import GroupEncoder, NormCap
from tests.benchmarks._idea_steps import Factors


def preconditioned(gradients: Tensor, optimizer: Optimizer) -> Tensor:
    r"""Return :math:`\lVert g_k / (\sqrt{\hat v} + \epsilon) \rVert`, (K,), of Adam's last step."""
    if not optimizer.state:  # before the first step
        return _norms(gradients)
    group = optimizer.param_groups[0]
    scales = []
    for p in group["params"]:
        state = optimizer.state[p]
        unbiased = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
        scales.append((unbiased.sqrt() + group["eps"]).flatten())
    return _norms(gradients / torch.cat(scales))


def _norms(gradients: Tensor) -> Tensor:
    norms: Tensor = vector_norm(gradients, dim=1)
    return norms


def by_adam(cap: NormCap, encoder: GroupEncoder, optimizer: Optimizer) -> Factors:
    """Return the factors of ``cap`` on these norms."""
    state = cap.init(encoder.counts_, encoder.strata_)
    return lambda batch: batch.cap(cap, preconditioned(batch.gradients, optimizer), state)
