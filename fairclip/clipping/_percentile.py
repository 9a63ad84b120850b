"""Clip at a percentile of the norms so far."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairclip.clipping._adaptive import Adaptive, Memory


@dataclass(frozen=True, slots=True)
class Percentile(Adaptive):
    r"""Rescale gradients to a percentile of the norms of the last steps.

    .. math:: c_t = P_q\bigl(\lVert g_{t-w+1} \rVert, \ldots, \lVert g_t \rVert\bigr)

    with linear interpolation, and then :math:`g \leftarrow g \min(1, c_t / \lVert g \rVert)`. The
    first step has its own norm as threshold, and stays as it is. About ``100 - q`` in 100 steps are
    clipped: this is closer to normalising than to cutting spikes off. Spikes above the percentile
    count as one value each, however large.

    Norms are taken before clipping, one for each call and scope. One that is inf or NaN is not
    remembered, and its gradient becomes what :class:`Norm` makes of it; a scope without a gradient
    keeps what it had. Before the first finite norm the threshold is ``upper``, or none.

    Args:
        q: The percentile, in [0, 100].
        window: :math:`w`, how many norms are remembered. With 1,000 the share of clipped steps is
            right to one in 100 (one standard error at ``q=10``; to 3 in 100 with a window of 100),
            and finding the percentile costs some 40 microseconds. This grows with the scopes: with
            1,000 of them on a CPU it is 30 milliseconds, and 2 with a window of 100.
        lower: The least threshold, or None. Set one: a threshold that only follows the norms
            shrinks to fit the majority, and starves whoever still has large gradients.
        upper: The largest threshold, or None.
        scope: What has a norm and a history of its own, as in :class:`Norm`.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs for ``scope="layer"``.

    Returns:
        A :class:`ClipRecord` like that of :class:`Norm`.

    Raises:
        ValueError: If a setting is out of range, names are missing, or the state is not one that
            ``init`` returned for this mode and window.

    Source:
        Seetharaman, P. et al. (2020). AutoClip, https://arxiv.org/abs/2007.14469. Departures: a
        window instead of all steps, the bounds (https://arxiv.org/abs/2506.01396) and scopes.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Percentile
        >>> weight, mode = torch.zeros(2), Percentile(q=50.0)
        >>> state = mode.init([weight])
        >>> for size in (1.0, 2.0, 100.0):
        ...     weight.grad = torch.tensor([size, 0.0])
        ...     record = mode([weight], state)
        >>> record.norm_before, record.threshold
        (tensor(100.), tensor(2.))
    """

    q: float = 10.0
    window: int = 1000

    def _check(self) -> None:
        if not 0 <= self.q <= 100:
            raise ValueError(f"`q` must be in [0, 100], got {self.q}.")
        if not (isinstance(self.window, int) and self.window >= 1):
            raise ValueError(f"`window` must be a whole number of at least 1, got {self.window}.")

    def _start(self) -> Memory:
        return {"norms": torch.full((self.window, 1), math.inf, dtype=torch.float64)}

    def _threshold_(self, norms: Tensor, observed: Tensor, memory: Memory) -> Tensor:
        past = memory["norms"]  # (window, S), the oldest first, inf where there was none yet
        if len(past) != self.window:
            raise ValueError(f"`window` is {self.window}, that of the state is {len(past)}.")
        past = torch.where(observed, torch.cat([past[1:], norms[None]]), past)
        memory["norms"] = past
        share = self.q / 100
        n_least = math.ceil((self.window - 1) * share) + 1
        least = past.topk(n_least, dim=0, largest=False).values  # sorted
        rank = ((past.isfinite().sum(0, dtype=past.dtype) - 1) * share).clamp(min=0)
        around = torch.stack([rank.floor(), rank.ceil()]).long()
        low, high = least.gather(0, around).unbind()
        weight = rank.frac()
        return torch.where(weight > 0, torch.lerp(low, high, weight), low)
