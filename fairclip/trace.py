"""What happened in each step. Shapes: K groups, L layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pandas as pd
import torch
from torch import Tensor

from fairclip.clipping import ClipRecord

__all__ = ["Acted", "StepRecord", "Trace"]

_VERSION = 1
_CHUNK = 1024  # rows that are allocated at once
_TOLERANCE = 1e-6  # about what float32 resolves: a factor closer to 1 did not act
_SCALARS = (
    "ratio_after",
    "norm_uncapped",
    "norm_capped",
    "norm_clipped",
    "nonfinite",
    "clip_threshold",
    "clip_share",
)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One training step, as tensors on the device; reading one waits for it, keeping it does not.

    Args:
        group_norms: (K,) norm of each group's contribution in this batch, NaN where it is absent.
        cap_norms: (K,) or (L, K) the norms as the cap used them.
        factors: (K,) or (L, K) what the contributions were multiplied by.
        ratio_after: () largest capped norm over the reference's, this batch; NaN where a reference
            is absent.
        share: (K,) share of each group in the update: its projection on it; with that of the
            unknown rows they sum to 1.
        counts: (K,) int64 rows of each group in this batch.
        norm_uncapped: () norm of the gradient before the cap.
        norm_capped: () after the cap.
        norm_clipped: () after the clip.
        nonfinite: (K,) bool, whether the group's norm is not finite. The largest group, which is
            got by subtraction, has none whenever another's is not.
        clip: What the clipping mode did, None without one.
        cosine: (K, K) cosines between the contributions, None where not asked for.
        layers: The L layers' names, None for one factor per group.
    """

    group_norms: Tensor
    cap_norms: Tensor
    factors: Tensor
    ratio_after: Tensor
    share: Tensor
    counts: Tensor
    norm_uncapped: Tensor
    norm_capped: Tensor
    norm_clipped: Tensor
    nonfinite: Tensor
    clip: ClipRecord | None = None
    cosine: Tensor | None = None
    layers: tuple[str, ...] | None = None


class Acted(TypedDict):
    """How often each stage acted, as shares in [0, 1] of the kept steps; NaN without any."""

    n_steps: int
    cap: float
    clip: float
    cap_by_group: dict[str, float]
    absent_by_group: dict[str, float]


class _Rows:
    """The rows of the last ``capacity`` steps and of every n-th older one, on the host.

    A row is written once and never moved; only `read` looks at it, and waits for the device.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_steps = 0
        self.every = 1  # an older step is kept if it is a multiple
        self._ring: list[int] = []  # the slot of a recent step is at step % capacity
        self._older: dict[int, int] = {}  # step -> slot
        self._free: list[int] = []  # slots
        self._n_slots = 0
        self._chunks: list[Tensor] = []  # slot i is row i % _CHUNK of chunk i // _CHUNK
        self._device: torch.device | None = None  # whose copies may be under way

    def __len__(self) -> int:
        return len(self._older) + len(self._ring)

    def append(self, row: Tensor) -> None:
        if row.is_cuda and self._device is None:
            self._device = row.device
            self._chunks = [chunk.pin_memory() for chunk in self._chunks]
        slot = self._next_slot(row)
        self._chunks[slot // _CHUNK][slot % _CHUNK].copy_(row, non_blocking=row.is_cuda)
        self.n_steps += 1

    def read(self) -> tuple[list[int], Tensor]:
        """Return the kept steps, oldest first, and a copy of their rows."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        recent = range(self.n_steps - len(self._ring), self.n_steps)
        slots = [*self._older.values(), *(self._ring[step % self.capacity] for step in recent)]
        rows = torch.cat(self._chunks)[slots] if self._chunks else torch.empty(0, 0)
        return [*self._older, *recent], rows

    def restore(self, n_steps: int, every: int, steps: list[int], rows: Tensor) -> None:
        """Hold what `read` returned, in the place of the rows so far."""
        self.n_steps, self.every = n_steps, every
        n_older = len(steps) - min(n_steps, self.capacity)
        self._older = {step: slot for slot, step in enumerate(steps[:n_older])}
        self._ring = [0] * (len(steps) - n_older)
        for slot, step in enumerate(steps[n_older:], start=n_older):
            self._ring[step % self.capacity] = slot
        self._free, self._n_slots, self._chunks, self._device = [], 0, [], None
        for row in rows:
            slot = self._new_slot(row)
            self._chunks[slot // _CHUNK][slot % _CHUNK] = row

    def _next_slot(self, row: Tensor) -> int:
        if len(self._ring) < self.capacity:
            self._ring.append(self._new_slot(row))
            return self._ring[-1]
        place, leaving = self.n_steps % self.capacity, self.n_steps - self.capacity
        if leaving % self.every == 0:
            self._older[leaving] = self._ring[place]
            self._thin()
            self._ring[place] = self._free.pop() if self._free else self._new_slot(row)
        return self._ring[place]

    def _new_slot(self, row: Tensor) -> int:
        if self._n_slots == len(self._chunks) * _CHUNK:
            self._chunks.append(
                torch.empty(_CHUNK, len(row), dtype=row.dtype, pin_memory=row.is_cuda)
            )
        self._n_slots += 1
        return self._n_slots - 1

    def _thin(self) -> None:
        while len(self._older) > max(1, self.capacity // 10):
            self.every *= 2
            for step in [step for step in self._older if step % self.every]:
                self._free.append(self._older.pop(step))


class Trace:
    """The last ``capacity`` steps and every n-th older one, on the host.

    A step is one flat row, copied without waiting for the device. Older steps are thinned out as
    they grow: when more than ``capacity / 10`` of them are kept, every second one is dropped and
    n doubles. Rows are float32, or float64 where a tensor of the record is.

    Args:
        names: The K groups' names, in the order of their codes.
        capacity: Steps that are all kept, at least 1.

    Raises:
        ValueError: If a name occurs twice or ``capacity`` is not positive.

    Example:
        >>> import torch
        >>> one, group = torch.tensor(1.0), torch.tensor([2.0, 1.0])
        >>> trace = Trace(["a", "b"])
        >>> trace.append(
        ...     StepRecord(
        ...         group_norms=group,
        ...         cap_norms=group,
        ...         factors=torch.tensor([0.5, 1.0]),
        ...         ratio_after=one,
        ...         share=torch.tensor([0.5, 0.5]),
        ...         counts=torch.tensor([24, 8]),
        ...         norm_uncapped=one,
        ...         norm_capped=one,
        ...         norm_clipped=one,
        ...         nonfinite=torch.tensor([False, False]),
        ...     )
        ... )
        >>> trace.to_frame()[["step", "n[a]", "norm[a]", "factor[a]"]]
           step  n[a]  norm[a]  factor[a]
        0     0    24      2.0        0.5
    """

    def __init__(self, names: Sequence[str], capacity: int = 100_000) -> None:
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must be distinct, got {list(names)}.")
        if not capacity >= 1:
            raise ValueError(f"`capacity` must be at least 1, got {capacity}.")
        self.names = tuple(names)
        self._rows = _Rows(capacity)
        self._layers: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Return the number of kept steps."""
        return len(self._rows)

    def append(self, record: StepRecord) -> None:
        """Keep a step, without waiting for the device.

        Raises:
            ValueError: If the record has other groups than this trace, or other layers than the
                steps before.
        """
        if self._rows.n_steps == 0:
            self._layers = record.layers
        row = _flatten(record)
        if record.layers != self._layers or len(row) != self._width:
            raise ValueError(
                f"`record` must have the groups {list(self.names)} and the layers {self._layers}, "
                f"got factors of shape {tuple(record.factors.shape)} and layers {record.layers}."
            )
        self._rows.append(row)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per kept step, oldest first; waits for the device once.

        Columns: ``step`` (from 0); ``n[<name>]``, ``norm[<name>]``, ``cap_norm[<name>]``,
        ``factor[<name>]``, ``share[<name>]`` of each group; ``ratio_after``; ``norm_uncapped``,
        ``norm_capped``, ``norm_clipped``; ``nonfinite``; ``clip_threshold`` and ``clip_share``,
        NaN without a clip. With layers: ``cap_norm[<layer>][<name>]`` and the factors likewise.
        """
        steps, rows = self._rows.read()
        groups = [f"[{name}]" for name in self.names]
        scoped = groups
        if self._layers is not None:
            scoped = [f"[{layer}]{group}" for layer in self._layers for group in groups]
        counts = [f"n{group}" for group in groups]
        columns = [
            *counts,
            *(f"norm{group}" for group in groups),
            *(f"cap_norm{group}" for group in scoped),
            *(f"factor{group}" for group in scoped),
            *(f"share{group}" for group in groups),
            *_SCALARS,
        ]
        frame = pd.DataFrame(rows.reshape(len(steps), self._width).numpy(), columns=columns)
        frame.insert(0, "step", steps)
        return frame.astype({"step": "int64", **dict.fromkeys(counts, "int64"), "nonfinite": bool})

    def acted(self) -> Acted:
        """Return how often each stage acted: a factor of a present group other than 1, a clip.

        With layers, a cap that acted in one of them acted.
        """
        steps, rows = self._rows.read()
        rows = rows.reshape(len(steps), self._width)
        n_groups = len(self.names)
        present = rows[:, :n_groups] > 0
        start = 2 * n_groups + self._n_scoped
        factors = rows[:, start : start + self._n_scoped]
        factors = factors.reshape(len(steps), self._n_scoped // n_groups, n_groups)
        capped = ((factors - 1).abs() > _TOLERANCE).any(1) & present
        clipped = rows[:, -1] > 0  # NaN without a clip
        return Acted(
            n_steps=len(steps),
            cap=_share(capped.any(1)),
            clip=_share(clipped),
            cap_by_group=dict(zip(self.names, map(_share, capped.T), strict=True)),
            absent_by_group=dict(zip(self.names, map(_share, ~present.T), strict=True)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all kept steps; waits for the device."""
        steps, rows = self._rows.read()
        return {
            "version": _VERSION,
            "names": self.names,
            "layers": self._layers,
            "capacity": self._rows.capacity,
            "n_steps": self._rows.n_steps,
            "every": self._rows.every,
            "steps": torch.tensor(steps, dtype=torch.int64),
            "rows": rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, in the place of the steps so far.

        Raises:
            ValueError: If it is of another version, of other groups or of another capacity.
        """
        expected = {"version": _VERSION, "names": self.names, "capacity": self._rows.capacity}
        for name, value in expected.items():
            if state[name] != value:
                raise ValueError(f"`{name}` must be {value} as in this trace, got {state[name]}.")
        self._layers = state["layers"]
        self._rows.restore(state["n_steps"], state["every"], state["steps"].tolist(), state["rows"])

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()  # pinned memory and copies under way are not for pickles

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["names"], state["capacity"])  # type: ignore[misc]
        self.load_state_dict(state)

    @property
    def _n_scoped(self) -> int:
        return len(self.names) * (1 if self._layers is None else len(self._layers))

    @property
    def _width(self) -> int:
        return 3 * len(self.names) + 2 * self._n_scoped + len(_SCALARS)


def _flatten(record: StepRecord) -> Tensor:
    """Return the row of a record: what stands in a frame, in that order."""
    if record.clip is None:
        threshold = share = torch.full_like(record.norm_clipped, torch.nan)
    else:
        threshold, share = record.clip.threshold, record.clip.share_clipped
    scalars = (
        record.ratio_after,
        record.norm_uncapped,
        record.norm_capped,
        record.norm_clipped,
        record.nonfinite.any(),
        threshold,
        share,
    )
    return torch.cat(
        (
            record.counts,
            record.group_norms,
            record.cap_norms.flatten(),
            record.factors.flatten(),
            record.share,
            torch.stack(scalars),
        )
    )


def _share(acted: Tensor) -> float:
    """Return the share of True, NaN without any."""
    return float(acted.double().mean())
