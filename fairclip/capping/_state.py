"""What a cap remembers between steps. Shapes: K groups, L layers."""

from typing import Any

import numpy as np
import torch

from fairclip._arrays import Array, alike, are_finite, namespace, to_host, to_place_of
from fairclip.capping._plan import Plan, make_plan
from fairclip.capping._strata import Strata

_VERSION = 1


class CapState:
    """Running averages of the groups' norms; made by `NormCap.init`, updated by each call.

    It moves to the device and dtype of the norms it is called with, and takes its shape from the
    first of them.

    Attributes:
        averages: The norms as the last call used them, in its kind and shape; NaN where a group
            has none yet. Without smoothing, those of the last batch alone.
        reference: The code that each group was compared with in the last call, likewise; its own
            where there is no reference, or one of norm 0.

    Args:
        strata: Which groups are compared with each other.
        counts: (K,) int64 rows in the data, or zeros when ``fixed`` is False.
        fixed: Whether ``counts`` are known; if not, the rows of all calls are added up.
        min_rows: Groups with fewer rows are pooled.
    """

    averages: Any  # a tensor or a numpy array, as the norms were given
    reference: Any

    def __init__(
        self, strata: Strata, counts: np.ndarray[Any, Any], *, fixed: bool, min_rows: int
    ) -> None:
        self.strata = strata
        self.counts: Array = counts
        self.fixed = fixed
        self.averages = torch.full((len(counts),), torch.nan)
        self.reference = torch.arange(len(counts))
        self._min_rows = min_rows
        self._plan: Plan | None = None
        # Each norm counts smoothing^age.
        self._sum: Array = np.zeros(len(counts))  # of the norms, like them from the first call on
        self._weight: Array = np.zeros(len(counts))  # (K,), of what they count

    def update_(
        self, norms: Array, batch_counts: Array, present: Array, smoothing: float
    ) -> tuple[Array, Array, Plan]:
        """Take one batch in.

        Returns:
            The averages, like ``norms``; the groups that can be compared in this step, (K,) bool:
            none of them after a norm that is not finite; the plan.
        """
        xp = namespace(norms)
        self._follow_(norms)
        finite = are_finite(norms, present)
        taken = present & finite  # (K,)
        kept_weight, kept_sum = (self._weight, self._sum) if smoothing else (0.0, 0.0)
        self._weight = xp.where(taken, self._weight * smoothing + 1, kept_weight)
        self._sum = xp.where(taken, self._sum * smoothing + norms, kept_sum)
        if not self.fixed:
            self.counts = self.counts + batch_counts
        if self._plan is None or not self.fixed:
            self._plan = make_plan(self.counts, self.strata, self._min_rows, norms.dtype)
        return self._sum / self._weight, (self._weight > 0) & finite, self._plan

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors; the rest follows from `NormCap.init`."""
        return {
            "version": _VERSION,
            "counts": torch.as_tensor(self.counts),
            "sum": torch.as_tensor(self._sum),
            "weight": torch.as_tensor(self._weight),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, saved on any device.

        Raises:
            ValueError: If it is of another version, or of other groups.
        """
        if state["version"] != _VERSION:
            raise ValueError(f"`version` must be {_VERSION}, got {state['version']}.")
        counts = state["counts"].tolist()
        mine = self.counts.tolist()
        if len(counts) != len(mine) or (self.fixed and counts != mine):
            raise ValueError(
                f"The saved state has the row counts {counts}, this one {mine}: resume with the "
                "groups and the data it was saved with."
            )
        self.counts = to_host(state["counts"])
        self._sum, self._weight = to_host(state["sum"]), to_host(state["weight"])
        self.averages = state["sum"] / state["weight"]
        self.strata, self._plan = self.strata.to_place_of(self.counts), None

    def _follow_(self, norms: Array) -> None:
        """Move to the device and dtype of ``norms``."""
        if self._sum.ndim > 1 and self._sum.shape != norms.shape:
            raise ValueError(
                f"`norms` must keep their shape {tuple(self._sum.shape)}, got "
                f"{tuple(norms.shape)}; `init` makes a new state."
            )
        if not alike(self._weight, norms):
            xp = namespace(norms)
            self._weight = xp.asarray(to_place_of(norms, self._weight), dtype=norms.dtype)
            self._sum = xp.asarray(to_place_of(norms, self._sum), dtype=norms.dtype)
            self.counts = to_place_of(norms, self.counts)
            self.strata, self._plan = self.strata.to_place_of(norms), None
