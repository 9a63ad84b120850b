"""A cap by what was observed of the predictions. Shapes: B rows, K groups."""

import math
import warnings
from typing import Any

import numpy as np
import torch

from fairclip._arrays import Array, are_finite, as_array, namespace, placed, to_device
from fairclip.capping import TargetCap, TargetState
from fairclip.clipper._codes import Codes, as_codes
from fairclip.clipper._predictions import Predicted, hits_of
from fairclip.clipper._unmeasured import unmeasured
from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GroupGradients, norms_of, with_rest
from fairclip.trace import RawStep

_PATIENCE = 100  # steps


class TargetRule:
    """A `TargetCap` in the steps of a clipper: the factors are known before each of them.

    Args:
        cap: The bound.
        state: Of the cap.
    """

    scope = "global"
    preserve_norm = False
    is_due = False  # no norm decides anything

    def __init__(self, cap: TargetCap, state: TargetState) -> None:
        self.cap = cap
        self._state = state
        self._n_steps = 0  # without any observation
        self._has_observed = False
        self._use_latest()

    def begin_weighed(self) -> None:
        """See `CapRule`; what is observed later in the step is for the next one."""
        self._use_latest()

    def cap_(self, gradients: GroupGradients, gramian: Array) -> RawStep:
        """See `CapRule`."""
        self._use_latest()
        counts = gradients.row_counts()
        finite = are_finite(norms_of(gramian)[:-1], counts > 0)
        device = gradients.totals[0].device
        factors = namespace(gramian).where(finite, placed(self._factors, device), 1.0)
        gradients.recombine_(factors)
        return self._record(counts, gramian, factors, device)

    def skip(self, counts: np.ndarray[Any, Any], device: torch.device) -> RawStep:
        """See `CapRule`."""
        gramian, measured = unmeasured(len(counts), device)
        factors = placed(self._factors, device)
        return self._record(placed(counts, device), gramian, factors, device, measured)

    def measure(self, *_: Any) -> RawStep:
        """Refuse: the factors of a `TargetCap` come from no norm."""
        raise TypeError("No step of a TargetCap is measured.")

    def observe(self, predicted: Predicted, targets: Codes, groups: Codes) -> None:
        """See `CapRule`."""
        codes = as_codes(groups)
        hits = hits_of(predicted, targets, codes).flatten()  # (B,)
        n_groups = len(self._state.counts)
        least, largest = codes.numpy().min(), codes.numpy().max()
        if least < -1 or largest >= n_groups:
            raise ValueError(f"`groups` must be in -1..{n_groups - 1}, got {least}..{largest}.")
        all_codes = torch.arange(n_groups, device=hits.device)[:, None]  # (K, 1)
        member = to_device(codes, hits.device).flatten() == all_codes  # (K, B)
        self.cap(as_array((member * hits).sum(1)), as_array(member.sum(1)), self._state)
        self._has_observed |= bool(largest >= 0)

    def state_dict(self) -> dict[str, Any]:
        """See `CapRule`."""
        return {"cap": self._state.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `CapRule`."""
        self._state.load_state_dict(state["cap"])
        self._has_observed = self._state.has_observed

    def _use_latest(self) -> None:
        # A copy: records hold it, and what a user writes there must not reach the state.
        self._factors, self._reference = self._state.factors * 1.0, self._state.reference
        self.table: Array = with_rest(self._factors)

    def _record(
        self,
        counts: Array,
        gramian: Array,
        factors: Array,
        device: torch.device,
        measured: Array = None,
    ) -> RawStep:
        self._warn_if_forgotten()
        reference = placed(self._reference, device)
        no_norms = namespace(factors).full_like(factors, math.nan)
        return RawStep(counts, gramian, factors, no_norms, reference, measured=measured)

    def _warn_if_forgotten(self) -> None:
        if self._has_observed:
            return
        self._n_steps += 1
        if self._n_steps == _PATIENCE:
            warnings.warn(
                f"{_PATIENCE} steps were taken and `observe` was never called: a TargetCap knows "
                "no recalls then, and all factors are 1. Call "
                "`clipper.observe(predicted, targets, groups)` in each step.",
                FairclipWarning,
                stacklevel=4,
            )
