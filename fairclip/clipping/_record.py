"""What a mode reports of a step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ByScope:
    """What a mode did in each of its S scopes, as (S,) tensors; NaN where no gradient was.

    Attributes:
        names: Of the layers or tensors (numbers for tensors without a name), with the pattern in
            front where an override applied.
        norm_before: Norms before.
        norm_after: Norms afterwards.
        threshold: What was allowed.
    """

    names: tuple[str, ...]
    norm_before: Tensor
    norm_after: Tensor
    threshold: Tensor


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What one mode did in one step. Every tensor is a scalar on the gradients' device.

    Attributes:
        name: The mode, such as "Norm".
        norm_before: The norm of the whole gradient before, in the mode's own ``norm_type``. As in
            torch, squares of float32 gradients overflow to inf where the norm is beyond about 1e19,
            and underflow to 0 below about 1e-22.
        norm_after: The same afterwards.
        threshold: What was allowed, NaN where that is not one number.
        share_clipped: Share in [0, 1] of the mode's scopes that were changed; of components for
            :class:`Value`.
        cosine: Of the angle between the gradient before and after: 1 where only its length changed,
            NaN where one of them is 0 or not finite; None where the mode does not measure it.
        first_nonfinite: int64, the place in ``parameters`` of the first whose gradient or norm was
            not finite; -1 if all were; None where the mode does not measure it.
        parameters: The names of the parameters with a gradient, numbers for those without a name;
            of those with a buffer for :class:`Momentum`, of all that are trained for
            :class:`Update` and :class:`Weights`.
        ratio: Norm of the update over that of the weights, for :class:`Update`.
        scopes: The same scope by scope, for a mode that has several.
        stages: The records of a :class:`Chain`'s modes, in order.
    """

    name: str
    norm_before: Tensor
    norm_after: Tensor
    threshold: Tensor
    share_clipped: Tensor
    cosine: Tensor | None = None
    first_nonfinite: Tensor | None = None
    parameters: tuple[str, ...] = ()
    ratio: Tensor | None = None
    scopes: ByScope | None = None
    stages: tuple["ClipRecord", ...] = ()
