"""The history of a training run, on the host. Shapes: K groups, L layers."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypedDict

import pandas as pd
import torch
from torch import Tensor

from fairclip.trace._record import StepRecord, kind
from fairclip.trace._ring import Ring
from fairclip.trace._row import SCALARS, flatten

_VERSION = 1
_AT_ONCE = 256  # steps
_TOLERANCE = 1e-6  # about what float32 resolves: a factor closer to 1 did not act


class Acted(TypedDict):
    """How often each stage acted, as shares in [0, 1] of the kept steps; NaN without any."""

    n_steps: int
    cap: float
    clip: float
    cap_by_group: dict[str, float]
    absent_by_group: dict[str, float]


class Trace:
    """The last ``capacity`` steps and every n-th older one, on the host.

    A step is kept as it was left behind until 256 of them are worked out and copied together,
    without waiting for the device. Older steps are thinned out as they grow: when more than
    ``capacity / 10`` of them are kept, every second one is dropped and n doubles. Numbers are kept
    as float64.

    Args:
        names: The K groups' names, in the order of their codes.
        capacity: Steps that are all kept, at least 1.

    Raises:
        ValueError: If a name occurs twice or ``capacity`` is not positive.

    Example:
        >>> import torch, fairclip
        >>> model = torch.nn.Linear(3, 1)
        >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
        >>> with clipper.watch([0, 0, 0, 1]):
        ...     model(torch.randn(4, 3)).square().mean().backward()
        >>> record = clipper.clip_grad_()
        >>> clipper.trace.to_frame()[["step", "n[0]", "n[1]"]]
           step  n[0]  n[1]
        0     0     3     1
    """

    def __init__(self, names: Sequence[str], capacity: int = 100_000) -> None:
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must be distinct, got {list(names)}.")
        if not capacity >= 1:
            raise ValueError(f"`capacity` must be at least 1, got {capacity}.")
        self.names = tuple(names)
        self._rows = Ring(capacity)
        self._layers: tuple[str, ...] | None = None
        self._waiting: list[StepRecord] = []

    def __len__(self) -> int:
        """Return the number of kept steps."""
        self._flush()
        return len(self._rows)

    def append(self, record: StepRecord) -> None:
        """Keep a step, without waiting for the device.

        Raises:
            ValueError: If the record has other groups than this trace, or other layers than the
                steps before.
        """
        if not self._waiting and self._rows.n_steps == 0:
            self._layers = record.layers
        if record.layers != self._layers or record.raw.counts.shape != (len(self.names),):
            raise ValueError(
                f"`record` must have the groups {list(self.names)} and the layers {self._layers}, "
                f"got {len(record.raw.counts)} groups and the layers {record.layers}."
            )
        self._waiting.append(record)
        if len(self._waiting) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Move the steps that wait into the ring: many at once cost little more than one."""
        for _, alike in groupby(self._waiting, key=kind):
            for row in flatten(list(alike)):
                self._rows.append(row)
        self._waiting = []

    def _read(self) -> tuple[list[int], Tensor]:
        """Return the kept steps, and their rows (n, width)."""
        self._flush()
        steps, rows = self._rows.read()
        return steps, rows.reshape(len(steps), self._width)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per kept step, oldest first; waits for the device once.

        Columns: ``step`` (from 0); ``n[<name>]``, ``norm[<name>]``, ``cap_norm[<name>]``,
        ``factor[<name>]``, ``share[<name>]`` of each group; ``ratio_after``; ``norm_uncapped``,
        ``norm_capped``, ``norm_clipped``; ``nonfinite``; ``clip_threshold`` and ``clip_share``,
        NaN without a clip. With layers: ``cap_norm[<layer>][<name>]`` and the factors likewise.
        """
        steps, rows = self._read()
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
            *SCALARS,
        ]
        frame = pd.DataFrame(rows.numpy(), columns=columns)
        frame.insert(0, "step", steps)
        return frame.astype({"step": "int64", **dict.fromkeys(counts, "int64"), "nonfinite": bool})

    def acted(self) -> Acted:
        """Return how often each stage acted: a factor of a present group other than 1, a clip.

        With layers, a cap that acted in one of them acted.
        """
        steps, rows = self._read()
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
        steps, rows = self._read()
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
        self._layers, self._waiting = state["layers"], []
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
        return 3 * len(self.names) + 2 * self._n_scoped + len(SCALARS)


def _share(acted: Tensor) -> float:
    """Return the share of True, NaN without any."""
    return float(acted.double().mean())
