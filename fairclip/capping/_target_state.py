"""What a target's cap remembers between observations. Shapes: K groups."""

from dataclasses import dataclass
from typing import Any

import torch

from fairclip._arrays import Array, alike, namespace, to_host, to_place_of

_VERSION = 2
_LEARNT = ("factors", "reference", "log_factors", "hits", "rows", "n_observations", "best")
_GIVEN = ("counts", "member", "comparable", "log_floor")


@dataclass(slots=True, eq=False)
class TargetState:
    """Smoothed recalls and the factors that follow; made by `TargetCap.init`, updated by each call.

    It moves to the device of the counts it is called with.

    Attributes:
        target: The cap's.
        favourable: The cap's where the target looks at it, else None.
        factors: (K,) what the groups' rows are to be multiplied by, rescaled.
        reference: (K,) the code of the group with the least recall that each was compared with,
            its own before it was seen.
        log_factors: (K,) their logarithms before they are rescaled, at most 0.
        hits: (K + 1,) rows of each group that were predicted right, and last of all known rows; an
            observation counts smoothing^age.
        rows: (K + 1,) rows that were observed, likewise.
        n_observations: (1,) how often known rows were observed.
        best: (1,) the best smoothed accuracy so far, -inf until half of its weight was there.
        counts: (K,) rows in the data.
        member: (K, K) row k tells the groups of k's stratum.
        comparable: (K, K) row k tells those of them that are large enough to be the least.
        log_floor: (K,) the least logarithm; 0 for a group that the target leaves alone.
    """

    target: str
    favourable: int | None
    factors: Array
    reference: Array
    log_factors: Array
    hits: Array
    rows: Array
    n_observations: Array
    best: Array
    counts: Array
    member: Array
    comparable: Array
    log_floor: Array

    @property
    def recalls(self) -> Array:
        """(K,) smoothed recalls, NaN where a group was not seen yet."""
        xp, rows = namespace(self.rows), self.rows[:-1]
        return xp.where(rows > 0, self.hits[:-1] / rows.clip(1.0), xp.nan)

    @property
    def accuracy(self) -> Array:
        """(1,) smoothed accuracy on all known rows."""
        return self.hits[-1:] / self.rows[-1:].clip(1.0)

    @property
    def has_observed(self) -> bool:
        """Whether known rows were ever observed; waits for the device."""
        return bool(to_host(self.n_observations)[0] > 0)

    def update_(self, hits: Array, rows: Array, smoothing: float) -> None:
        """Take in the rows (K,) that were predicted right, of those that were there."""
        self._follow_(hits)
        xp = namespace(hits)
        hits, rows = (xp.concatenate((x, x.sum(-1)[None])) for x in (hits, rows))  # (K + 1,)
        is_there = rows > 0
        self.hits = xp.where(is_there, self.hits * smoothing + hits, self.hits)
        self.rows = xp.where(is_there, self.rows * smoothing + rows, self.rows)
        self.n_observations = self.n_observations + is_there[-1:]
        settled = 1 - smoothing**self.n_observations >= 0.5  # the first few are a matter of luck
        self.best = xp.where(settled, xp.maximum(self.best, self.accuracy), self.best)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors; the rest follows from `TargetCap.init`."""
        given = {"version": _VERSION, "target": self.target, "favourable": self.favourable}
        return given | {n: torch.as_tensor(getattr(self, n)) for n in ("counts", *_LEARNT)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, saved on any device.

        Raises:
            ValueError: If it is of another version or target, or of other groups.
        """
        if state["version"] != _VERSION:
            raise ValueError(f"`version` must be {_VERSION}, got {state['version']}.")
        for name in ("target", "favourable"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"The saved state is of a cap with `{name}` {state[name]!r}, this one is "
                    f"{getattr(self, name)!r}: resume with the cap it was saved with."
                )
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
        if not alike(self.hits, array):
            for name in (*_LEARNT, *_GIVEN):
                setattr(self, name, to_place_of(array, getattr(self, name)))
