"""What a cap remembers between steps. Shapes: K groups, S strata, L layers."""

from typing import Any

import torch
from torch import Tensor

from fairclip.capping._plan import Plan, make_plan
from fairclip.capping._strata import Strata

_VERSION = 1


class CapState:
    """Running averages of the groups' norms; made by `NormCap.init`, updated by each call.

    It moves to the device and dtype of the norms it is called with, and takes its shape from the
    first of them.

    Args:
        strata: Which groups are compared with each other.
        counts: (K,) int64 rows in the data, or zeros when ``fixed`` is False.
        fixed: Whether ``counts`` are known; if not, the rows of all calls are added up.
        min_rows: Groups with fewer rows are pooled.
    """

    def __init__(self, strata: Strata, counts: Tensor, *, fixed: bool, min_rows: int) -> None:
        self.strata = strata
        self.counts = counts
        self.fixed = fixed
        self.reference: Tensor | None = None  # (K,) or (L, K) code each was compared with
        self._min_rows = min_rows
        self._plan: Plan | None = None
        self._means: Tensor | None = None  # (K,) or (L, K), 0 where undefined
        self._weight = torch.zeros(len(counts))  # (K,) 1 - smoothing^steps, 0 where undefined

    @property
    def averages(self) -> Tensor:
        """The norms as the cap used them, like the norms; NaN where a group has none yet.

        Without smoothing, those of the last batch alone.
        """
        means = torch.zeros_like(self._weight) if self._means is None else self._means
        return torch.where(self._weight > 0, means, torch.nan)

    def update_(
        self, norms: Tensor, batch_counts: Tensor, present: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor, Plan]:
        """Take one batch in.

        Returns:
            The averages with 0 where they are undefined, like ``norms``; the groups that can be
            compared in this step, (K,) bool: none of them after a norm that is not finite; the
            plan.
        """
        means = self._follow_(norms)
        norms = torch.where(present, norms, 0.0)
        finite = norms.amax() < torch.inf  # amax hands NaN on
        norms = torch.where(finite, norms, 0.0)
        gain = (present & finite).to(norms.dtype)  # (K,)
        if smoothing == 0:
            self._weight, self._means = gain, norms
        else:
            gain = gain * (1 - smoothing)
            self._weight = torch.addcmul(self._weight, gain, 1 - self._weight)
            # A weight is 0 or at least 1 - smoothing: the bound only keeps 0 / 0 out.
            self._means = torch.lerp(means, norms, gain / self._weight.clamp(min=1 - smoothing))
        if not self.fixed:
            self.counts = self.counts + batch_counts
        if self._plan is None or not self.fixed:
            self._plan = make_plan(self.counts, self.strata, self._min_rows, norms.dtype)
        return self._means, (self._weight > 0) & finite, self._plan

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; the rest follows from `NormCap.init`."""
        return {
            "version": _VERSION,
            "counts": self.counts,
            "means": self._means,
            "weight": self._weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: If it is of another version, or of other groups.
        """
        if state["version"] != _VERSION:
            raise ValueError(f"`version` must be {_VERSION}, got {state['version']}.")
        counts = state["counts"]
        if counts.shape != self.counts.shape or (
            self.fixed and counts.tolist() != self.counts.tolist()
        ):
            raise ValueError(
                f"The saved state has the row counts {counts.tolist()}, this one "
                f"{self.counts.tolist()}: resume with the groups and the data it was saved with."
            )
        self.counts, self._means, self._weight = counts, state["means"], state["weight"]
        self.strata = self.strata.to(counts.device)
        self._plan = None

    def _follow_(self, norms: Tensor) -> Tensor:
        """Move to the device and dtype of ``norms`` and return the averages so far."""
        if self._means is None:
            self._means = torch.zeros_like(norms)
        elif self._means.shape != norms.shape:
            raise ValueError(
                f"`norms` must keep their shape {tuple(self._means.shape)}, got "
                f"{tuple(norms.shape)}; `init` makes a new state."
            )
        if (self._weight.device, self._weight.dtype) != (norms.device, norms.dtype):
            self._weight = self._weight.to(norms, non_blocking=True)
            self._means = self._means.to(norms, non_blocking=True)
            self.counts = self.counts.to(norms.device, non_blocking=True)
            self.strata = self.strata.to(norms.device)
            self._plan = None
        return self._means
