"""Factors by step, for `Scheduled`."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constant:
    """The same factor in every step.

    Args:
        factor: Dimensionless, positive.

    Raises:
        ValueError: If it is not positive.

    Example:
        >>> from fairclip.clipping import Constant
        >>> Constant(0.5)(1000)
        0.5
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive("factor", self.factor)

    def __call__(self, step: int, /) -> float:  # noqa: ARG002  the same in all of them
        """Return the factor of a step."""
        return self.factor


@dataclass(frozen=True, slots=True)
class _Between:
    start_factor: float
    end_factor: float
    total_iters: int

    def __post_init__(self) -> None:
        _check_positive("start_factor", self.start_factor)
        _check_positive("end_factor", self.end_factor)
        if not (isinstance(self.total_iters, int) and self.total_iters >= 1):
            raise ValueError(
                f"`total_iters` must be a whole number of at least 1, got {self.total_iters}."
            )

    def _between(self, weight: float) -> float:
        """Return the factor that is this share of the way from the start to the end."""
        return self.start_factor + (self.end_factor - self.start_factor) * weight


@dataclass(frozen=True, slots=True)
class Linear(_Between):
    r"""From one factor to another along a line, then constant: a warm-up, or a decay.

    .. math:: f_t = f_0 + (f_T - f_0) \min(t, T) / T

    Args:
        start_factor: :math:`f_0`, of step 0, positive.
        end_factor: :math:`f_T`, of step :math:`T` and of all later ones, positive.
        total_iters: :math:`T`, in steps.

    Raises:
        ValueError: If a factor is not positive, or ``total_iters`` is not a whole number of at
            least 1.

    Source:
        ``torch.optim.lr_scheduler.LinearLR``.

    Example:
        >>> from fairclip.clipping import Linear
        >>> warmup = Linear(start_factor=0.5, end_factor=1.0, total_iters=4)
        >>> [warmup(step) for step in range(6)]
        [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    """

    def __call__(self, step: int, /) -> float:
        """Return the factor of a step."""
        return self._between(min(step / self.total_iters, 1.0))


@dataclass(frozen=True, slots=True)
class Cosine(_Between):
    r"""From one factor to another along half a cosine, then constant.

    .. math:: f_t = f_0 + (f_T - f_0) \tfrac{1}{2} \bigl(1 - \cos(\pi \min(t, T) / T)\bigr)

    Args:
        start_factor: :math:`f_0`, of step 0, positive.
        end_factor: :math:`f_T`, of step :math:`T` and of all later ones, positive.
        total_iters: :math:`T`, in steps.

    Raises:
        ValueError: If a factor is not positive, or ``total_iters`` is not a whole number of at
            least 1.

    Source:
        ``torch.optim.lr_scheduler.CosineAnnealingLR``, which rises again after its ``T_max``; this
        one stays.

    Example:
        >>> from fairclip.clipping import Cosine
        >>> decay = Cosine(start_factor=1.0, end_factor=0.5, total_iters=2)
        >>> [decay(step) for step in range(4)]
        [1.0, 0.75, 0.5, 0.5]
    """

    def __call__(self, step: int, /) -> float:
        """Return the factor of a step."""
        way = min(step / self.total_iters, 1.0)
        return self._between((1 - math.cos(math.pi * way)) / 2)


def _check_positive(name: str, factor: float) -> None:
    if not factor > 0:
        raise ValueError(f"`{name}` must be positive, got {factor}.")
