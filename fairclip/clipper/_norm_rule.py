"""A cap by norms, those of the step itself or of earlier ones. Shapes: K groups."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import Array, are_finite, namespace, placed, to_host
from fairclip.capping import CapState, NormCap
from fairclip.clipper._unmeasured import unmeasured
from fairclip.gradients import GroupGradients, norms_of, with_rest
from fairclip.trace import RawStep


def _check_can_lag(cap: NormCap) -> None:
    """Raise where a cap is more than one factor a group that is known beforehand."""
    if cap.scope == "layer":
        raise ValueError(
            "`weigh` scales rows in all layers alike, and the cap has scope='layer': use "
            "scope='global', or `watch`."
        )
    if cap.preserve_norm:
        raise ValueError(
            "`weigh` does not know the norm without the cap, and the cap has preserve_norm=True: "
            "use preserve_norm=False, or `watch`."
        )
    if cap.smoothing == 0:
        raise ValueError(
            "`weigh` scales rows before their norms are known, and the cap has smoothing=0, which "
            "looks at this batch alone: use a smoothing above 0, or `watch`."
        )


class NormRule:
    r"""A `NormCap` in the steps of a clipper, and when its norms are measured for weighed ones.

    The first weighed step is not measured: until it is weighed nothing says that norms are to be
    lagged, and its forward pass is over by then. With a measurement in every m-th step the averages
    decay by :math:`b^{\sqrt{m}}` instead of b at each: between b, too slow for norms that fall, and
    :math:`b^m`, in which too few measurements count.

    Args:
        cap: The bound.
        state: Of the cap.
        n_groups: K.
        measure_every: m, steps from one measured step to the next.

    Attributes:
        table: What the losses' gradients are multiplied by: the factors, and 1, (K + 1,).
    """

    def __init__(self, cap: NormCap, state: CapState, n_groups: int, measure_every: int) -> None:
        self.cap, self.scope, self.preserve_norm = cap, cap.scope, cap.preserve_norm
        self._lagged = replace(cap, smoothing=cap.smoothing ** math.sqrt(measure_every))
        self._state = state
        self._measure_every = measure_every
        self._n_until_measured = 1
        self._use(np.ones(n_groups))
        self._rows = np.zeros(n_groups, dtype=np.int64)  # since the last measured step

    @property
    def is_due(self) -> bool:
        """Whether the step that comes next is to be measured."""
        return self._n_until_measured == 0

    def cap_(self, gradients: GroupGradients, gramian: Array) -> RawStep:
        """See `CapRule`."""
        counts = gradients.row_counts()
        norms = norms_of(gramian)[..., :-1]  # (K,) or (L, K), as the factors
        factors = self.cap(norms, counts, counts > 0, self._state)
        if not math.isinf(self.cap.max_ratio):
            gradients.recombine_(factors)
            if self.preserve_norm:
                scale = _growth(gramian, factors)
                torch._foreach_mul_(
                    gradients.totals, scale if isinstance(scale, Tensor) else float(scale)
                )
        return RawStep(counts, gramian, factors, self._state.averages, self._state.reference)

    def begin_weighed(self) -> None:
        """See `CapRule`."""
        _check_can_lag(self.cap)

    def skip(self, counts: np.ndarray, device: torch.device) -> RawStep:
        """See `CapRule`."""
        self._n_until_measured = max(self._n_until_measured - 1, 0)
        return self._record(counts, device, *unmeasured(len(counts), device))

    def measure(
        self, weighted: Array, seen: Array, counts: np.ndarray, device: torch.device
    ) -> RawStep:
        """See `CapRule`."""
        self._n_until_measured = self._measure_every - 1
        xp = namespace(weighted)
        applied = placed(self._factors, device)
        present = (seen > 0) & (applied != 0)  # nobody's norm is 0 / 0
        record = self._record(counts, device, weighted, present)
        unknown = (record.counts > 0) & ~present
        scales = xp.where(applied != 0, applied, 1.0)
        scales = with_rest(xp.where(unknown, xp.nan, scales))
        gramian = weighted / (scales[:, None] * scales)
        rows, self._rows = self._rows, np.zeros_like(self._rows)
        norms = norms_of(gramian)[:-1]
        factors = self._lagged(norms, placed(rows, device), present, self._state)
        self._use(xp.where(are_finite(norms, present), factors, applied))
        return replace(record, gramian=gramian)

    def observe(self, *_: Any) -> None:
        """Refuse: a `NormCap` looks at no predictions."""
        raise TypeError(f"`observe` is for a TargetCap, and the cap is {self.cap!r}.")

    def state_dict(self) -> dict[str, Any]:
        """See `CapRule`."""
        lagged = {
            "factors": torch.as_tensor(self._factors),
            "n_until_measured": self._n_until_measured,
            "rows": torch.from_numpy(self._rows.copy()),
        }
        return {"cap": self._state.state_dict(), "lagged": lagged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `CapRule`; of any ``measure_every``."""
        self._state.load_state_dict(state["cap"])
        lagged = state["lagged"]
        self._use(to_host(lagged["factors"]).copy())
        self._n_until_measured = min(lagged["n_until_measured"], self._measure_every)
        self._rows = to_host(lagged["rows"]).copy()

    def _use(self, factors: Array) -> None:
        self._factors: Array = factors
        self.table: Array = with_rest(factors)

    def _record(
        self, counts: np.ndarray, device: torch.device, gramian: Array, measured: Array
    ) -> RawStep:
        """Record a step by what was known before it."""
        self._rows += counts
        return RawStep(
            counts=placed(counts, device),
            gramian=gramian,
            factors=placed(self._factors, device),
            cap_norms=placed(self._state.averages, device),
            reference=placed(self._state.reference, device),
            measured=measured,
        )


def _growth(gramian: Array, factors: Array) -> Array:
    """Return the norm of the total before the cap over that after it; 1 if either is no number."""
    xp = namespace(gramian)
    weights = with_rest(factors)
    before = gramian.sum()
    after = (weights[..., None, :] @ gramian @ weights[..., None]).sum()
    with np.errstate(all="ignore"):
        ratio = (before / after) ** 0.5
    # Nothing capped: exactly 1, whatever the two sums round to.
    is_needed = xp.isfinite(ratio) & (factors != 1.0).any()
    needed: Array = xp.where(is_needed, ratio, 1.0)
    return needed
