"""Clip only what is a spike among the norms so far."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairclip.clipping._adaptive import Memory, Moments


@dataclass(frozen=True, slots=True)
class ZScore(Moments):
    r"""Rescale gradients whose norm is a spike, the more the larger it is (ZClip).

    With the z-score :math:`z_t = (\lVert g_t \rVert - \mu_{t-1}) / \sigma_{t-1}`,

    .. math:: c_t = \mu_{t-1} + \sigma_{t-1}
        \begin{cases} z^2 / z_t & z_t > z \\ z & \text{else} \end{cases}

    and then :math:`g \leftarrow g \min(1, c_t / \lVert g \rVert)`. Mean and deviation take in
    :math:`\min(\lVert g_t \rVert, c_t)`, so that spikes do not poison them. The first ``warmup``
    steps have no threshold but ``upper``, and a spike among them counts in full.

    The price: norms that rise for good beyond ``z`` deviations are all taken for spikes, the
    deviation decays, and the threshold stays close to the old mean. The same holds after norms
    that were all equal. ``lower`` limits it.

    One norm for each call and scope. One that is inf or NaN is not remembered, and its gradient
    becomes what :class:`Norm` makes of it; a scope without a gradient keeps what it had.

    Args:
        z: The z-score above which a norm is a spike, positive.
        alpha: What the moments keep of their value in a step, in [0, 1).
        warmup: How many norms make the first mean and deviation of a scope, at least 1.
        lower: The least threshold, or None. Set one: a threshold that only follows the norms
            shrinks to fit the majority, and starves whoever still has large gradients. The moments
            do not see the bounds.
        upper: The largest threshold, or None.
        scope: What has a norm and moments of its own, as in :class:`Norm`.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs for ``scope="layer"``.

    Returns:
        A :class:`ClipRecord` like that of :class:`Norm`.

    Raises:
        ValueError: If a setting is out of range, names are missing, or the state is not one that
            ``init`` returned for this mode.

    Source:
        Kumar, A. et al. (2025). ZClip, https://arxiv.org/abs/2504.02507: reciprocal clipping.
        Departures: no epsilon in the z-score, bounds (https://arxiv.org/abs/2506.01396), scopes.

    Example:
        >>> import torch
        >>> from fairclip.clipping import ZScore
        >>> weight, mode = torch.zeros(2), ZScore(z=2.0, warmup=2)
        >>> state = mode.init([weight])
        >>> for size in (1.0, 3.0, 10.0):  # mean 2, deviation 1, so 10 has the z-score 8
        ...     weight.grad = torch.tensor([size, 0.0])
        ...     record = mode([weight], state)
        >>> record.norm_before, record.threshold
        (tensor(10.), tensor(2.5000))
    """

    def _threshold_(self, norms: Tensor, observed: Tensor, memory: Memory) -> Tensor:
        count, mean, variance = memory["count"], memory["mean"], memory["variance"]
        warm = count >= self.warmup
        excess, limit = norms - mean, self.z * variance.sqrt()
        spike = warm & (excess > limit)
        kept = torch.where(spike, self.z**2 * variance / excess, excess)  # of the excess
        memory["count"] = count = count + observed
        weight = torch.where(warm, 1 - self.alpha, 1 / count)
        rest = kept - weight * kept  # what the new mean leaves of it
        change = rest * torch.where(warm, rest, kept) - variance  # ZClip's; exact until then
        memory["mean"] = torch.where(observed, mean + weight * kept, mean)
        memory["variance"] = torch.where(observed, variance + weight * change, variance)
        return torch.where(warm, mean + torch.where(spike, kept, limit), math.inf)
