"""A cap by what was observed of the predictions. Shapes: B rows, K groups."""

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import Array, as_array, namespace, placed, to_device
from fairclip.capping import TargetCap, TargetState
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
        xp, norms = namespace(gramian), norms_of(gramian)[:-1]
        finite = xp.where(counts > 0, norms, 0.0).max() < math.inf  # False for NaN
        device = gradients.totals[0].device
        factors = xp.where(finite, placed(self._factors, device), 1.0)
        gradients.recombine_(factors)
        return self._record(counts, gramian, factors, device)

    def skip(self, counts: np.ndarray[Any, Any], device: torch.device) -> RawStep:
        """See `CapRule`."""
        gramian, measured = unmeasured(len(counts), device)
        factors = placed(self._factors, device)
        return self._record(placed(counts, device), gramian, factors, device, measured)

    def observe(self, predicted: Tensor, targets: Tensor, codes: Tensor) -> None:
        """Take in how the rows (B,) of the groups ``codes`` were predicted."""
        n_groups = len(self._state.counts)
        least, largest = codes.numpy().min(), codes.numpy().max()
        if least < -1 or largest >= n_groups:
            raise ValueError(f"`groups` must be in -1..{n_groups - 1}, got {least}..{largest}.")
        device = predicted.device
        groups = torch.arange(n_groups, device=device)[:, None]  # (K, 1)
        member = to_device(codes, device).flatten() == groups  # (K, B)
        right = (predicted == to_device(targets, device)).flatten()  # (B,)
        hits, rows = (member & right).sum(1), member.sum(1)  # (K,)
        self.cap(as_array(hits), as_array(rows), self._state)
        self._has_observed = True

    def state_dict(self) -> dict[str, Any]:
        """See `CapRule`."""
        return {"cap": self._state.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `CapRule`."""
        self._state.load_state_dict(state["cap"])

    def _use_latest(self) -> None:
        self._factors, self._reference = self._state.factors, self._state.reference
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
                "`clipper.observe(predicted_codes, targets, groups)` in each step.",
                FairclipWarning,
                stacklevel=4,
            )
