"""Scale gradients to a norm, up as well as down."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord
from fairclip.clipping._scopes import Scope, by_scope, check_scope


@dataclass(frozen=True, slots=True)
class Normalize(Mode):
    r"""Rescale gradients to the norm ``norm``, whatever it was.

    .. math:: g \leftarrow g \cdot \frac{\nu}{\lVert g \rVert_2 + 10^{-6}}

    The length of the gradient no longer says how near a minimum is, so the learning rate has to
    fall. A zero gradient stays zero, and one that is not far above :math:`10^{-6}` comes out
    shorter than ``norm``. A norm of inf turns finite components into 0 and others into NaN, one of
    NaN makes all NaN. A parameter without a gradient takes no part, a sparse gradient is coalesced,
    float16 and bfloat16 are measured in float32. Nothing waits for the device.

    Args:
        norm: :math:`\nu`, positive and finite.
        scope: What has one norm. "global": all gradients together. "layer": the parameters whose
            names agree up to the last dot. "tensor": each on its own.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs for ``scope="layer"``.

    Returns:
        A :class:`ClipRecord`: the norms are of all gradients together, ``share_clipped`` is the
        share of scopes whose norm changed, up or down.

    Raises:
        ValueError: If a setting is out of range or names are missing.

    Source:
        Hazan, E., Levy, K. and Shalev-Shwartz, S. (2015). Beyond convexity: stochastic quasi-convex
        optimization, Algorithm 1, https://arxiv.org/abs/1507.02030, with the constant in the
        denominator of ``optax.normalize_by_update_norm``.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Normalize
        >>> weight = torch.zeros(2)
        >>> weight.grad = torch.tensor([0.03, 0.04])
        >>> record = Normalize(norm=1.0)([weight])
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """

    norm: float = 1.0
    scope: Scope = "global"

    def __post_init__(self) -> None:
        if not 0 < self.norm < math.inf:
            raise ValueError(f"`norm` must be positive and finite, got {self.norm}.")
        check_scope(self.scope)

    def scaled(self, factor: float) -> "Normalize":
        """Return this mode with its norm times ``factor``."""
        return replace(self, norm=factor * self.norm)

    def init(self, parameters: Parameters) -> None:
        """Raise where names are missing: there is nothing to remember."""
        by_scope(parameters, self.scope)

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        state: Any = None,  # noqa: ARG002  nothing to remember
    ) -> ClipRecord:
        """Scale every ``.grad`` in place."""
        scopes = by_scope(parameters, self.scope)
        factors = self.norm / (scopes.before + 1e-6)
        scopes.scale_(factors)
        return scopes.record("Normalize", factors, torch.full_like(factors, self.norm))
