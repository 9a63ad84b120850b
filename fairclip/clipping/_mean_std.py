"""Clip at some standard deviations above the mean norm."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairclip.clipping._adaptive import Memory, Moments


@dataclass(frozen=True, slots=True)
class MeanStd(Moments):
    r"""Rescale gradients to the running mean of the norms plus ``z`` standard deviations.

    .. math:: c_t = \mu_{t-1} + z\,\sigma_{t-1}

    and then :math:`g \leftarrow g \min(1, c_t / \lVert g \rVert)`. Mean and variance are those of
    the norms of the steps before, taken before clipping, where one that is a step older counts
    :math:`\alpha` times as much; the weights add up to 1 from the first step on. The first
    ``warmup`` steps have no threshold but ``upper``.

    A spike enters the moments as it is and lifts the threshold for some :math:`1/(1-\alpha)`
    steps: where one step in 20 is 100 times as large as the others, the threshold is tens of times
    as high as without. :class:`ZScore` and :class:`Percentile` do not follow spikes.

    One norm for each call and scope. One that is inf or NaN is not remembered, and its gradient
    becomes what :class:`Norm` makes of it; a scope without a gradient keeps what it had.

    Args:
        z: How many standard deviations, positive.
        alpha: :math:`\alpha` in [0, 1).
        warmup: How many norms a scope needs before it has a threshold of its own, at least 1.
        lower: The least threshold, or None. Set one: a threshold that only follows the norms
            shrinks to fit the majority, and starves whoever still has large gradients.
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
        Weighted variance as in West, D. H. D. (1979), https://doi.org/10.1145/359146.359153. The
        bounds: https://arxiv.org/abs/2506.01396.

    Example:
        >>> import torch
        >>> from fairclip.clipping import MeanStd
        >>> weight, mode = torch.zeros(2), MeanStd(z=2.0, warmup=2)
        >>> state = mode.init([weight])
        >>> for size in (2.0, 2.0, 100.0):
        ...     weight.grad = torch.tensor([size, 0.0])
        ...     record = mode([weight], state)
        >>> record.norm_before, record.threshold
        (tensor(100.), tensor(2.))
    """

    def _threshold_(self, norms: Tensor, observed: Tensor, memory: Memory) -> Tensor:
        count, mean, variance = memory["count"], memory["mean"], memory["variance"]
        thresholds = torch.where(count < self.warmup, math.inf, mean + self.z * variance.sqrt())
        count = count + observed
        weight = (1 - self.alpha) / (1 - self.alpha**count)
        step = norms - mean
        memory["count"] = count
        memory["mean"] = torch.where(observed, mean.lerp(norms, weight), mean)
        memory["variance"] = torch.where(
            observed, (1 - weight) * (variance + weight * step.square()), variance
        )
        return thresholds
