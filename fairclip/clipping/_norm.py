"""Scale gradients whose norm is above a threshold down to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from fairclip.clipping._gradients import Scope, named, split, summarise, total_norm
from fairclip.clipping._mode import ClipRecord, Mode, Parameters


@dataclass(frozen=True, slots=True)
class Norm(Mode):
    r"""Rescale gradients so that their norm is at most ``max_norm``.

    .. math:: g \leftarrow g \cdot \min\!\left(1, \frac{c}{\lVert g \rVert_p + 10^{-6}}\right)

    One factor for each scope. A parameter without a gradient takes no part, one that is listed
    twice is scaled once, a sparse gradient is coalesced. float16 and bfloat16 gradients are
    measured in float32. A norm of inf turns finite components into 0 and others into NaN, one of
    NaN makes all NaN, as in torch. Nothing waits for the device.

    Args:
        max_norm: The threshold :math:`c`, positive; inf measures and changes nothing.
        norm_type: The order :math:`p`, positive; inf is the largest absolute component.
        scope: What has one norm. "global": all gradients together. "layer": the parameters whose
            names agree up to the last dot. "tensor": each on its own.
        overrides: Thresholds by pattern of the parameter's name, as in ``{"embed.*": 0.5}``. Within
            a scope, the parameters that fit a pattern are taken out and have a norm of their own.
            The first pattern that fits counts.
        error_if_nonfinite: Raise, and change nothing, where a norm is inf or NaN. This waits for
            the device.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs for ``scope="layer"`` or ``overrides``.

    Returns:
        A :class:`ClipRecord`: the norms are of all gradients together, ``share_clipped`` is the
        share of scopes whose norm went down, ``threshold`` is NaN where scopes have several.

    Raises:
        ValueError: If a setting is out of range, names are missing, or a pattern applies to no
            parameter.
        RuntimeError: If ``error_if_nonfinite`` and a norm is.

    Source:
        Pascanu, R., Mikolov, T. and Bengio, Y. (2013). On the difficulty of training recurrent
        neural networks, Algorithm 1, https://arxiv.org/abs/1211.5063, as
        ``torch.nn.utils.clip_grad_norm_``, which does the work. Departures from torch: the
        half-precision norms, sparse gradients, parameters listed twice.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Norm
        >>> weight = torch.zeros(2)
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> Norm(max_norm=1.0)([weight]).norm_before
        tensor(5.)
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """

    max_norm: float
    norm_type: float = 2.0
    scope: Scope = "global"
    overrides: Mapping[str, float] = field(default_factory=dict)
    error_if_nonfinite: bool = False

    def __post_init__(self) -> None:
        thresholds = {f"overrides[{k!r}]": v for k, v in self.overrides.items()}
        settings = {"max_norm": self.max_norm, "norm_type": self.norm_type, **thresholds}
        for name, value in settings.items():
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if self.scope not in get_args(Scope):
            raise ValueError(f"`scope` must be 'global', 'layer' or 'tensor', got {self.scope!r}.")

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Scale every ``.grad`` in place."""
        scopes = split(named(parameters), self.scope, self.overrides)
        limits = [self.overrides.get(p, self.max_norm) if p else self.max_norm for p, _ in scopes]
        # Measure all before scaling any, so that an error leaves nothing half done.
        norms = [
            total_norm(members, self.norm_type, self.error_if_nonfinite)
            for members in scopes.values()
        ]
        scaled = [
            _scale(members, limit, norm)
            for members, limit, norm in zip(scopes.values(), limits, norms, strict=True)
        ]
        return summarise("Norm", norms, scaled, limits, self.norm_type)


def _scale(tensors: list[Tensor], limit: float, norm: Tensor) -> Tensor:
    """Scale the gradients by torch's factor and return the norm times that factor."""
    if limit == math.inf:
        return norm
    gauge = torch.empty_like(norm)
    gauge.grad = norm.clone()
    clip_grads_with_norm_([*tensors, gauge], limit, norm)
    return gauge.grad
