"""Scale gradients whose norm is above a threshold down to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._scopes import Scope, as_tensor, by_scope, check_scope


@dataclass(frozen=True, slots=True)
class Norm(Mode):
    r"""Rescale gradients so that their norm is at most ``max_norm``.

    .. math:: g \leftarrow g \cdot \min\!\left(1, \frac{c}{\lVert g \rVert_p + 10^{-6}}\right)

    One factor for each scope. A parameter without a gradient takes no part, one that is listed
    twice is scaled once, a sparse gradient is coalesced. float16 and bfloat16 gradients are
    measured in float32. A norm of inf turns finite components into 0 and others into NaN, one of
    NaN makes all NaN, as in torch. Nothing waits for the device.

    Clipping single gradients keeps the direction of each, not that of their mean. Where the noise
    is isotropic around the mean, the mean of the clipped gradients still points along the true one,
    only shorter; otherwise it may turn: noise of ±(2, 2) around (1, 0), clipped at 1, turns it by
    41 degrees, although that noise is symmetric. Under any noise the variance falls, because
    scaling into a ball brings no two gradients further apart.

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
        check_scope(self.scope)

    def scaled(self, factor: float) -> "Norm":
        """Return this mode with its thresholds times ``factor``."""
        overrides = {pattern: factor * limit for pattern, limit in self.overrides.items()}
        return replace(self, max_norm=factor * self.max_norm, overrides=overrides)

    def init(self, parameters: Parameters) -> None:
        """Raise where names are missing or a pattern fits none: there is nothing to remember."""
        by_scope(parameters, self.scope, self.norm_type, self.overrides)

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Scale every ``.grad`` in place."""
        scopes = by_scope(parameters, self.scope, self.norm_type, self.overrides)
        if self.error_if_nonfinite:
            scopes.raise_if_nonfinite()
        own = [self.max_norm if p is None else self.overrides[p] for p in scopes.patterns]
        thresholds = as_tensor(own, scopes.before)
        # torch's own arithmetic, to the bit.
        factors = ((scopes.before + 1e-6).reciprocal() * thresholds).clamp(max=1.0)
        return scopes.clip_("Norm", factors, thresholds)
