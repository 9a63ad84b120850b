"""A cap by the norms of earlier steps. Shapes: K groups."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fairclip.capping import CapState, NormCap
from fairclip.clipper._norms import namespace, norms_of
from fairclip.gradients import Array, to_device
from fairclip.trace import RawStep


def check_scales(cap: NormCap) -> None:
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


class LaggedCap:
    """The factors in force, and when the norms are measured again.

    The first step is not measured: until it is weighed nothing says that norms are to be lagged,
    and its forward pass is over by then. In the averages a measurement counts as many steps as the
    root of ``measure_every``.

    Args:
        cap: The bound.
        state: Of the cap.
        n_groups: K.
        measure_every: Steps from one measured step to the next.
    """

    def __init__(self, cap: NormCap, state: CapState, n_groups: int, measure_every: int) -> None:
        # Once is too slow for norms that fall, measure_every times lets too few measurements count.
        self._cap = replace(cap, smoothing=cap.smoothing ** math.sqrt(measure_every))
        self._state = state
        self._measure_every = measure_every
        self._wait = 1  # steps before the next measured one
        self._factors: Array = np.ones(n_groups)
        self._rows = np.zeros(n_groups, dtype=np.int64)  # since the last measured step
        self._tables: dict[torch.dtype, Array] = {}
        self._blanks: dict[torch.device, tuple[Array, Array]] = {}

    @property
    def is_due(self) -> bool:
        """Whether the step that comes next is to be measured."""
        return self._wait == 0

    def table(self, dtype: torch.dtype) -> Array:
        """Return what the losses' gradients are multiplied by: 1, and the factors, (K + 1,).

        At least in float32; numpy or a tensor, as the factors are.
        """
        if dtype not in self._tables:
            factors = torch.as_tensor(self._factors)
            table = torch.cat([factors.new_ones(1), factors])
            table = table.to(torch.promote_types(dtype, torch.float32))
            self._tables[dtype] = table.numpy() if table.is_cpu else table
        return self._tables[dtype]

    def skip(self, counts: np.ndarray, device: torch.device) -> RawStep:
        """Record a step that is not measured.

        Args:
            counts: (K,) rows of each group.
            device: Where the gradients are.
        """
        self._wait = max(self._wait - 1, 0)
        if device not in self._blanks:
            unknown = np.full((len(counts) + 1, len(counts) + 1), np.nan)
            measured = np.zeros(len(counts), dtype=bool)
            self._blanks[device] = _placed(unknown, device), _placed(measured, device)
        return self._record(counts, device, *self._blanks[device])

    def measure(
        self, weighted: Array, seen: Array, counts: np.ndarray, device: torch.device
    ) -> RawStep:
        """Record a measured step, and let its norms decide the factors of the next ones.

        Args:
            weighted: (K + 1, K + 1) dot products between the contributions as they were scaled.
            seen: (K,) rows of each group of which it knows.
            counts: As in `skip`.
            device: As in `skip`.
        """
        self._wait = self._measure_every - 1
        xp = namespace(weighted)
        applied = _placed(self._factors, device)
        present = (seen > 0) & (applied != 0)  # nobody's norm is 0 / 0
        record = self._record(counts, device, weighted, present)
        unknown = (record.counts > 0) & ~present
        scales = _with_rest(xp.where(applied != 0, applied, 1.0), 1.0)
        scales = xp.where(_with_rest(unknown, False), xp.nan, scales)
        gramian = weighted / (scales[:, None] * scales)
        rows, self._rows = self._rows, np.zeros_like(self._rows)
        norms = norms_of(gramian)[:-1]
        factors = self._cap(norms, _placed(rows, device), present, self._state)
        finite = xp.where(present, norms, 0.0).max() < math.inf  # False for NaN
        self._factors, self._tables = xp.where(finite, factors, applied), {}
        return replace(record, gramian=gramian)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "factors": torch.as_tensor(self._factors),
            "wait": self._wait,
            "rows": torch.from_numpy(self._rows.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, saved on any device."""
        self._factors, self._tables = state["factors"].cpu().numpy().copy(), {}
        self._wait, self._rows = state["wait"], state["rows"].numpy().copy()

    def _record(
        self, counts: np.ndarray, device: torch.device, gramian: Array, measured: Array
    ) -> RawStep:
        """Record a step by what was known before it."""
        self._rows += counts
        return RawStep(
            counts=_placed(counts, device),
            gramian=gramian,
            factors=_placed(self._factors, device),
            cap_norms=_placed(self._state.averages, device),
            reference=_placed(self._state.reference, device),
            measured=measured,
        )


def _with_rest(of_groups: Array, value: float) -> Array:
    """Return what is known of each group, and of the rows of none, (K + 1,)."""
    xp = namespace(of_groups)
    return xp.concatenate((of_groups, xp.full_like(of_groups[:1], value)))


def _placed(array: Array, device: torch.device) -> Array:
    """Return an array as those of a step on this device are, without waiting for it."""
    if device.type == "cpu":
        return np.asarray(array)
    tensor = torch.as_tensor(array)
    return tensor if tensor.device == device else to_device(tensor, device)
