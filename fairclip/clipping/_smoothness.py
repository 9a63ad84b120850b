"""Clip the step by the smoothness of the loss. Shapes: n gradients, P components."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._flat import flat_pieces, flatten
from fairclip.clipping._gradients import (
    Gradients,
    by_kind,
    is_sharded,
    local,
    locate_nonfinite,
    of_shards,
)
from fairclip.clipping._mode import Mode, Parameters
from fairclip.clipping._record import ClipRecord


@dataclass(frozen=True, slots=True)
class Smoothness(Mode):
    r"""Clip where the loss curves: the step size is at most ``clip_factor`` over its smoothness.

    .. math::
        L_t = \frac{\lVert g_t - g_{t-1} \rVert}{\lVert w_t - w_{t-1} \rVert}, \qquad
        \lambda_t = \frac{\lVert w_t - w_{t-1} \rVert}{\lVert \hat g_{t-1} \rVert}, \qquad
        \hat g_t = g_t \min\!\left(\frac{c}{\lambda_t L_t},\;
            \max(1, \gamma_t)\right), \qquad
        \gamma_t = \min\!\left(\frac{1/2}{\lambda_t L_t},\;
            2 \frac{\lVert \hat g_{t-1} \rVert}{\lVert g_{t-1} \rVert},\; \gamma\right)

    :math:`\lambda_t` is the step size that the optimizer used (the learning rate, for SGD), so the
    one that :math:`\hat g_t` amounts to is clipped at :math:`c / L_t`. On a cliff that is a short
    step; on a plateau it is a long one, and ``max_growth`` lets it be longer than the learning
    rate. In :math:`\lambda_t L_t = \lVert g_t - g_{t-1} \rVert / \lVert \hat g_{t-1} \rVert` the
    movement cancels, so nothing but the last gradient is kept, before clipping.

    The rule is made for optimizers whose step is proportional to the gradient, such as SGD, and for
    full-batch gradients, with ``clip_factor=1``. With mini-batches the difference holds their
    noise, which does not shrink with the step: noise alone makes it :math:`\sqrt 2` gradients long,
    an oscillation 2, and the default lies between. Where the noise prevails, set ``lower``, or the
    steps may shrink to nothing.

    The first step is limited by ``upper`` only. After a zero gradient, around one that is not
    finite, and where other parameters had a gradient before, there is no estimate, and the last one
    holds. A step at learning rate 0 looks like a plateau. A gradient that is not finite does not
    become finite. float16 and bfloat16 are measured in float32. Nothing waits for the device.

    Args:
        clip_factor: :math:`c`, dimensionless, positive. At 1 a step would end where the gradient
            along it is 0, at 2 where it is reversed, if the curvature stayed what it was.
        max_growth: :math:`\gamma`, dimensionless, at least 1 and finite; 1 never lengthens a step.
        lower: What the threshold of the norm is at least, positive. None: nothing.
        upper: What it is at most, positive. None: inf.

    Shape:
        - ``parameters``: tensors, or (name, tensor) pairs.

    Returns:
        A :class:`ClipRecord`: ``threshold`` is what the clip allows the norm of all gradients to
        be, inf before there is an estimate. ``norm_after`` exceeds ``norm_before`` where
        ``max_growth`` lengthened the step; ``share_clipped`` is 1 there too.

    Raises:
        ValueError: If a setting is out of range, or the state is missing.
        TypeError: If a gradient is sparse.

    Source:
        The smoothness along the path: Malitsky, Y. and Mishchenko, K. (2020). Adaptive gradient
        descent without descent, Algorithm 1, https://arxiv.org/abs/1910.09529, whose step size is
        at most :math:`1 / (2 L_t)`. That clipping is a step size over the local smoothness: Zhang,
        J., He, T., Sra, S. and Jadbabaie, A. (2020). Why gradient clipping accelerates training,
        section 3, https://arxiv.org/abs/1905.11881. Departures: 1/2 limits the
        steps that are longer than the learning rate only, they may double where theirs grow by
        :math:`\sqrt{1 + \theta}`, and the others are clipped at :math:`c`.

    Example:
        >>> import torch
        >>> from fairclip.clipping import Smoothness
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)  # for a curvature of 8, at least 4 times
        >>> handle = Smoothness(clip_factor=1.0).attach(optimizer)  # the step size that converges
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     (4 * weight**2).sum().backward()
        ...     optimizer.step()
        ...     print(weight.item())
        -3.0
        0.0
        0.0
    """

    clip_factor: float = 1.5
    max_growth: float = 1.0
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if not self.clip_factor > 0:
            raise ValueError(f"`clip_factor` must be positive, got {self.clip_factor}.")
        if not 1 <= self.max_growth < math.inf:
            raise ValueError(f"`max_growth` must be finite and at least 1, got {self.max_growth}.")
        for name in ("lower", "upper"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"`{name}` must be positive or None, got {bound}.")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"`lower` must be at most `upper`, got {self.lower} > {self.upper}.")

    def scaled(self, factor: float) -> "Smoothness":
        """Return this mode with its threshold and the bounds of it times ``factor``."""
        return replace(
            self,
            clip_factor=factor * self.clip_factor,
            lower=self.lower and factor * self.lower,
            upper=self.upper and factor * self.upper,
        )

    def init(self, parameters: Parameters) -> "SmoothnessState":  # noqa: ARG002  none needed yet
        """Return the state before the first step."""
        return SmoothnessState()

    @torch.no_grad()
    def __call__(self, parameters: Parameters, state: Any = None) -> ClipRecord:
        """Scale every ``.grad`` in place, and update ``state``."""
        if not isinstance(state, SmoothnessState):
            raise ValueError(
                "Smoothness remembers the last gradient: pass as `state` what its "
                "`init(parameters)` returned, or attach it to an optimizer."
            )
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        found = Gradients.of(parameters, dense_only="Smoothness")
        before = state.observe_(found.values, _with_gradient(parameters))
        allowed = (self.clip_factor * state.steps).nan_to_num(nan=math.inf, posinf=math.inf)
        if self.lower is not None or self.upper is not None:
            bounds = [None if b is None else b / before for b in (self.lower, self.upper)]
            allowed = allowed.clamp(*bounds)
        growth = torch.minimum(state.steps / 2, 2 * state.factor)
        growth = growth.nan_to_num(nan=1.0, posinf=math.inf).clamp(1.0, self.max_growth)
        first = locate_nonfinite(before, found.values)  # before it spreads to the others
        factor = torch.minimum(allowed, growth)
        after = before * factor
        for places in by_kind(found.values).values():
            alike = local([found.values[i] for i in places])
            torch._foreach_mul_(alike, factor.to(alike[0].device))
        state.factor, state.length = factor, after
        return ClipRecord(
            name="Smoothness",
            norm_before=before,
            norm_after=after,
            threshold=(before * allowed).nan_to_num(nan=math.inf, posinf=math.inf),
            share_clipped=(after != before).to(before.dtype),
            cosine=after / after,  # NaN without a direction
            first_nonfinite=first,
            parameters=found.labels(),
        )


def _nan() -> Tensor:
    return torch.tensor(math.nan)


@dataclass(slots=True)
class SmoothnessState:
    r"""What `Smoothness` remembers, P components and three numbers; updated by each call.

    Attributes:
        with_gradient: Which parameters had a gradient in the last step.
        gradient: It, flat, one tensor for each dtype and device; NaN where it is not known.
        factor: What it was scaled by.
        length: The norm that this gave.
        steps: :math:`1 / (\lambda L)`: how many steps of the size that was used the smoothness
            allows. NaN before the first estimate.
    """

    with_gradient: tuple[bool, ...] = ()
    gradient: list[Tensor] = field(default_factory=list)
    factor: Tensor = field(default_factory=_nan)
    length: Tensor = field(default_factory=_nan)
    steps: Tensor = field(default_factory=_nan)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; the settings are the mode's."""
        return {
            "with_gradient": list(self.with_gradient),
            "gradient": [kept.clone() for kept in self.gradient],
            "factor": self.factor.clone(),
            "length": self.length.clone(),
            "steps": self.steps.clone(),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take over what `state_dict` returned, saved on any device.

        Raises:
            ValueError: If it is of another mode.
        """
        if state.keys() != {each.name for each in fields(self)}:
            raise ValueError(
                "The state to load is not of Smoothness: resume with the mode it was saved with."
            )
        self.with_gradient = tuple(state["with_gradient"])
        self.gradient = [kept.clone() for kept in state["gradient"]]
        for name in ("factor", "length", "steps"):
            setattr(self, name, state[name].clone())

    def observe_(self, values: list[Tensor], with_gradient: tuple[bool, ...]) -> Tensor:
        """Keep a gradient, estimate the smoothness on the way to it, and return its norm, ()."""
        kinds = [[values[i] for i in places] for places in by_kind(values).values()]
        if not kinds:
            return torch.zeros(())
        if with_gradient != self.with_gradient:
            self.with_gradient = with_gradient
            self.gradient = [_unknown(local(alike)) for alike in kinds]
        measured = []
        for i, alike in enumerate(kinds):
            own = local(alike)
            pieces = list(flat_pieces(own))
            kept = self.gradient[i] = self.gradient[i].to(own[0].device)
            parts = kept.split([sum(value.numel() for value in piece) for piece in pieces])
            pairs = torch.stack([_replace_(*pair) for pair in zip(parts, pieces, strict=True)])
            if is_sharded(alike[0]):
                pairs = of_shards(torch.linalg.vector_norm(pairs, dim=0), alike[0])
            measured.append(torch.linalg.vector_norm(pairs, dim=0).to(values[0].device))
        both: Tensor = torch.linalg.vector_norm(torch.stack(measured), dim=0)  # (2,)
        norm, change = both.unbind()
        steps = self.length / change
        self.steps = torch.where(steps > 0, steps, self.steps)  # neither 0 nor NaN
        return norm


def _unknown(alike: list[Tensor]) -> Tensor:
    """Return a gradient of which nothing is known, flat."""
    return alike[0].new_full((sum(value.numel() for value in alike),), math.nan)


def _replace_(kept: Tensor, piece: list[Tensor]) -> Tensor:
    """Keep a piece instead of the last; return the norms of it and of the change, (2,)."""
    flat = flatten(piece)
    dtype = torch.float32 if flat.dtype.itemsize < 4 else None
    norms = [torch.linalg.vector_norm(each, dtype=dtype) for each in (flat, flat - kept)]
    kept.copy_(flat)
    return torch.stack(norms)


def _with_gradient(parameters: list[Any]) -> tuple[bool, ...]:
    """Return which parameters have a gradient, of tensors or (name, tensor) pairs."""
    tensors = (item[1] if isinstance(item, tuple) else item for item in parameters)
    return tuple(tensor.grad is not None for tensor in tensors)
