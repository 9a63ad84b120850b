"""Limit the weights themselves after every step."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fairclip.clipping._attach import labels
from fairclip.clipping._mode import OptimizerMode
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._value import clamp_


@dataclass(frozen=True, slots=True)
class Weights(OptimizerMode):
    r"""Clamp every weight into an interval around 0 after every step.

    .. math:: w_i \leftarrow \min(\max(w_i, -v), v)

    For the critic of a WGAN: a network of bounded weights is Lipschitz, with a constant that grows
    with the product of its layers' sizes. A gradient penalty bounds the slope itself, and leaves
    the weights alone. NaN stays NaN, inf becomes :math:`v`. Nothing waits for the device.

    Args:
        max_value: The limit :math:`v`, positive, in units of the weights (0.01 in the paper); inf
            changes nothing.

    Returns:
        By ``attach``, a handle whose ``record`` holds the 2-norms of all weights before and after,
        and as ``share_clipped`` the share of weights that were beyond the limit.

    Raises:
        ValueError: If ``max_value`` is not positive.

    Source:
        Arjovsky, M., Chintala, S. and Bottou, L. (2017). Wasserstein GAN, Algorithm 1, line 7,
        https://arxiv.org/abs/1701.07875.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Weights
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -2.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> handle = Weights(max_value=1.0).attach(optimizer)
        >>> weight.grad = torch.zeros(2)
        >>> optimizer.step()
        >>> weight.detach()
        tensor([ 0.5000, -1.0000])
        >>> handle.record.share_clipped
        tensor(0.5000, dtype=torch.float64)
    """

    max_value: float

    def __post_init__(self) -> None:
        if not self.max_value > 0:
            raise ValueError(f"`max_value` must be positive, got {self.max_value}.")

    def after(
        self,
        optimizer: Optimizer,
        parameters: list[Tensor],
        kept: Any,  # noqa: ARG002  nothing was
    ) -> ClipRecord:
        """Clamp the weights in place."""
        return clamp_("Weights", parameters, self.max_value, labels(optimizer, parameters))
