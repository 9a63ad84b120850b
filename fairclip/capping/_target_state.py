"""What a target's cap remembers between observations. Shapes: K groups."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from fairclip._arrays import Array, alike, namespace, to_host, to_place_of

_VERSION = 1
_LEARNT = ("factors", "reference", "log_factors", "sum", "weight", "best")


@dataclass(slots=True, eq=False)
class TargetState:
    """Smoothed recalls and the factors that follow; made by `TargetCap.init`, updated by each call.

    It moves to the device of the counts it is called with.

    Attributes:
        factors: (K,) what the groups' rows are to be multiplied by, rescaled.
        reference: (K,) the code of the group with the least recall that each was compared with,
            its own before it was seen.
        log_factors: (K,) their logarithms before they are rescaled, at most 0.
        sum: (K + 1,) recalls of each group, and last the accuracy on all known rows; an
            observation counts smoothing^age.
        weight: (K + 1,) of what ``sum`` adds up.
        best: (1,) the best smoothed accuracy so far, -inf until half of its weight was there.
        counts: (K,) rows in the data.
        member: (K, K) row k tells the groups of k's stratum.
        log_floor: (K,) the least logarithm; 0 for a group that the target leaves alone.
    """

    factors: Array
    reference: Array
    log_factors: Array
    sum: Array
    weight: Array
    best: Array
    counts: Array
    member: Array
    log_floor: Array

    @property
    def recalls(self) -> Array:
        """(K,) smoothed recalls, NaN where a group was not seen yet."""
        xp, weight = namespace(self.weight), self.weight[:-1]
        return xp.where(weight > 0, self.sum[:-1] / weight.clip(1.0), xp.nan)

    def update_(self, hits: Array, rows: Array, smoothing: float) -> None:
        """Take in the rows (K,) that were predicted right, of those that were there."""
        self._follow_(hits)
        xp = namespace(hits)
        hits, rows = (xp.concatenate((x, x.sum(-1)[None])) for x in (hits, rows))  # (K + 1,)
        is_there = rows > 0
        recalls = hits / rows.clip(1.0)
        self.weight = xp.where(is_there, self.weight * smoothing + 1, self.weight)
        self.sum = xp.where(is_there, self.sum * smoothing + recalls, self.sum)
        accuracy, weight = self.sum[-1:] / self.weight[-1:].clip(1.0), self.weight[-1:]
        settled = weight * (1 - smoothing) >= 0.5  # the first few are a matter of luck
        self.best = xp.where(settled, xp.maximum(self.best, accuracy), self.best)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors; the rest follows from `TargetCap.init`."""
        names = ("counts", *_LEARNT)
        return {"version": _VERSION} | {n: torch.as_tensor(getattr(self, n)) for n in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, saved on any device.

        Raises:
            ValueError: If it is of another version, or of other groups.
        """
        if state["version"] != _VERSION:
            raise ValueError(f"`version` must be {_VERSION}, got {state['version']}.")
        counts, mine = state["counts"].tolist(), self.counts.tolist()
        if counts != mine:
            raise ValueError(
                f"The saved state has the row counts {counts}, this one {mine}: resume with the "
                "groups and the data it was saved with."
            )
        for name in _LEARNT:
            setattr(self, name, to_place_of(self.counts, to_host(state[name])))

    def _follow_(self, array: Array) -> None:
        """Move to where ``array`` is."""
        if not alike(self.sum, array):
            for field in fields(self):
                setattr(self, field.name, to_place_of(array, getattr(self, field.name)))
