"""What happened in a step, kept as it was left behind. Shapes: n steps, K groups, L layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import Array, namespace
from fairclip.clipping import ClipRecord
from fairclip.gradients import norms_of, with_rest


@dataclass(frozen=True, slots=True, eq=False)
class RawStep:
    """The numbers of a step; all else about it is worked out when somebody looks.

    Args:
        counts: (K,) int64 rows of each group in the batch.
        gramian: (K + 1, K + 1), or (L, K + 1, K + 1) with layers: dot products between the
            groups' contributions, and with that of the unknown rows, before the cap.
        factors: (K,) or (L, K) what the contributions were multiplied by.
        cap_norms: The norms as the cap used them, like ``factors``.
        reference: The code that each group was compared with, like ``factors``.
        norm_clipped: () norm after the clip, None without one.
        first_nonfinite: () int64, the first parameter whose gradient is not finite, counted among
            those with a gradient; -1 if all are.
        measured: (K,) bool, whose norm is known, where that is not all of them; the Gramian is NaN
            for the others.
    """

    counts: Array
    gramian: Array
    factors: Array
    cap_norms: Array
    reference: Array
    norm_clipped: Array = None
    first_nonfinite: Array = -1
    measured: Array = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepRecord:
    """One training step, as tensors on the device; reading one waits for it, keeping it does not.

    Args:
        raw: What the step left behind.
        clip: What the clipping mode did, None without one.
        layers: The L layers' names, None for one factor per group.
        parameters: The names of the parameters with a gradient.
        preserve_norm: Whether the capped gradient was scaled to the norm of the uncapped one.
    """

    raw: RawStep
    clip: ClipRecord | None = None
    layers: tuple[str, ...] | None = None
    preserve_norm: bool = False
    parameters: tuple[str, ...] = ()

    @property
    def counts(self) -> Tensor:
        """(K,) int64 rows of each group in this batch."""
        return torch.as_tensor(self.raw.counts)

    @property
    def factors(self) -> Tensor:
        """(K,) or (L, K) what the contributions were multiplied by."""
        return torch.as_tensor(self.raw.factors)

    @property
    def cap_norms(self) -> Tensor:
        """(K,) or (L, K) the norms as the cap used them."""
        return torch.as_tensor(self.raw.cap_norms)

    @property
    def group_norms(self) -> Tensor:
        """(K,) norm of each group's contribution in this batch, before the cap.

        NaN where it is absent, or was not measured in this step.
        """
        return self._worked_out("group_norms")

    @property
    def nonfinite(self) -> Tensor:
        """(K,) bool, whose norm is not finite.

        The largest group is got by subtraction, so it is flagged whenever another part is.
        """
        return self._worked_out("nonfinite")

    @property
    def share(self) -> Tensor:
        """Share (K,) of each group in the update, its projection on it.

        With that of the unknown rows they sum to 1.
        """
        return self._worked_out("share")

    @property
    def cosine(self) -> Tensor:
        """(K, K) cosines between the contributions, NaN for groups that are absent."""
        return self._worked_out("cosine")

    @property
    def ratio_after(self) -> Tensor:
        """() largest capped norm over the reference's, this batch; NaN if a reference is absent."""
        return self._worked_out("ratio_after")

    @property
    def cosine_capped(self) -> Tensor:
        """() cosine of the angle between the gradient before and after the cap; NaN if one is 0."""
        return self._worked_out("cosine_capped")

    @property
    def norm_uncapped(self) -> Tensor:
        """() norm of the gradient before the cap."""
        return self._worked_out("norm_uncapped")

    @property
    def norm_capped(self) -> Tensor:
        """() norm after the cap."""
        return self._worked_out("norm_capped")

    @property
    def norm_clipped(self) -> Tensor:
        """() norm after the clip."""
        return self._worked_out("norm_clipped")

    def __repr__(self) -> str:
        numbers = ", ".join(
            f"{name}={getattr(self, name).tolist()}"
            for name in ("counts", "group_norms", "factors", "norm_uncapped", "norm_clipped")
        )
        return f"StepRecord({numbers})"

    def _worked_out(self, name: str) -> Tensor:
        return torch.as_tensor(work_out([self])[name][0])


def kind(record: StepRecord) -> tuple[object, ...]:
    """Return what steps that are worked out together have in common; a user may change it."""
    raw = record.raw
    device = "host" if isinstance(raw.counts, np.ndarray) else raw.counts.device
    return device, record.preserve_norm, raw.norm_clipped is None, raw.measured is None


def work_out(records: Sequence[StepRecord]) -> dict[str, Array]:
    """Return all numbers of n steps of one `kind`, (n, ...), by the names of `StepRecord`."""
    raws = [record.raw for record in records]
    xp = namespace(raws[0].gramian)
    numbers = {
        name: xp.stack([getattr(raw, name) for raw in raws])
        for name in ("counts", "gramian", "factors", "cap_norms", "reference")
    }
    n_steps, n_groups = numbers["counts"].shape
    gramian = numbers["gramian"].reshape(n_steps, -1, n_groups + 1, n_groups + 1)  # (n, L, ...)
    factors = numbers["factors"].reshape(n_steps, -1, n_groups)
    reference = numbers["reference"].reshape(n_steps, -1, n_groups)
    whole = gramian.sum(1)  # (n, K + 1, K + 1)
    with np.errstate(all="ignore"):
        norms = norms_of(whole)[:, :-1]
        aligned = _aligned(gramian, factors)  # (n, K + 1)
        uncapped, capped = _root(whole.sum((1, 2))), _root(aligned.sum(-1))
        cosine = _dot_uncapped(gramian, factors) / (uncapped * capped)
        if records[0].preserve_norm:
            capped = uncapped
        numbers |= {
            "group_norms": xp.where(numbers["counts"] > 0, norms, xp.nan),
            "nonfinite": ~xp.isfinite(norms),
            "share": (aligned / aligned.sum(-1)[:, None])[:, :-1],
            "cosine": whole[:, :-1, :-1] / (norms[:, :, None] * norms[:, None, :]),
            "ratio_after": _ratio(
                factors * norms_of(gramian)[..., :-1], reference, numbers["counts"]
            ),
            "cosine_capped": cosine,
            "norm_uncapped": uncapped,
            "norm_capped": capped,
            "norm_clipped": capped,
        }
    if raws[0].measured is not None:
        numbers["nonfinite"] &= xp.stack([raw.measured for raw in raws])
    if raws[0].norm_clipped is not None:
        numbers["norm_clipped"] = xp.stack([xp.asarray(raw.norm_clipped) for raw in raws])
    return numbers


def _root(squares: Array) -> Array:
    return squares.clip(0) ** 0.5  # rounding makes a 0 negative


def _dot_uncapped(gramian: Array, factors: Array) -> Array:
    """Return the dot product of the gradient before and after the cap, (n,)."""
    return (gramian.sum(-2) * with_rest(factors)).sum((1, 2))


def _aligned(gramian: Array, factors: Array) -> Array:
    """Return each capped part's dot product with the update, (n, K + 1)."""
    weights = with_rest(factors)
    return ((gramian @ weights[..., None])[..., 0] * weights).sum(1)


def _ratio(capped: Array, reference: Array, counts: Array) -> Array:
    """Return the largest capped norm over its reference's, (n,); NaN if one is absent."""
    xp = namespace(capped)
    counts = xp.broadcast_to(counts[:, None], capped.shape)
    if xp is np:
        length = np.take_along_axis(capped, reference, -1)
        rows = np.take_along_axis(counts, reference, -1)
    else:
        length, rows = capped.gather(-1, reference), counts.gather(-1, reference)
    ratio = xp.where(capped == 0, 0.0, capped / length)  # NaN stays
    return xp.amax(xp.where(rows > 0, ratio, xp.nan), (1, 2))
