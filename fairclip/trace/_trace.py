"""The history of a training run, on the host. Shapes: K groups, L layers."""

import weakref
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypedDict, TypeVar

import pandas as pd
import torch
from torch import Tensor

from fairclip.clipping import ClipRecord
from fairclip.trace._log import Log, LogHandle
from fairclip.trace._record import StepRecord
from fairclip.trace._ring import Ring
from fairclip.trace._row import Step, flatten, group_columns

_VERSION = 2
_AT_ONCE = 256  # steps
_MOST = 2**25  # numbers, 256 MiB: fewer steps are kept where each has many
_TOLERANCE = 1e-6  # about what float32 resolves: what is closer did not act
_LEAST = 1000  # steps

Norms = TypeVar("Norms", Tensor, "pd.Series[float]")


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
    without waiting for the device, except where a stage appears that no step before had. Older
    steps are thinned out as they grow: when more than ``capacity / 10`` of them are kept, every
    second one is dropped and n doubles. Numbers are kept as float64.

    Without groups it keeps the records of the clipping modes that are attached to an optimizer.

    Args:
        names: The K groups' names, in the order of their codes; none without groups.
        capacity: Steps that are all kept, at least 1. It is lowered (to no less than 1,000) where
            they would take more than 256 MiB, as those of hundreds of layers do.

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

        Of a mode alone:

        >>> trace = fairclip.Trace()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = fairclip.clipping.Norm(max_norm=1.0).attach(optimizer, trace=trace)
        >>> optimizer.step()
        >>> trace.to_frame()[["step", "threshold[Norm]"]]
           step  threshold[Norm]
        0     0              1.0
    """

    def __init__(self, names: Sequence[str] = (), capacity: int = 100_000) -> None:
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must be distinct, got {list(names)}.")
        if not capacity >= 1:
            raise ValueError(f"`capacity` must be at least 1, got {capacity}.")
        self.names = tuple(names)
        self.capacity = capacity
        self._rows = Ring(capacity)
        self._columns: list[str] = []
        self._layers: tuple[str, ...] | None = None
        self._parameters: dict[str, int] = {}
        self._waiting: list[Step] = []
        self._last: Step | None = None
        self._optimizer: weakref.ref[Any] | None = None
        self._logs: list[LogHandle] = []

    def __len__(self) -> int:
        """Return the number of kept steps."""
        self._flush()
        return len(self._rows)

    def append(self, record: StepRecord | ClipRecord) -> None:
        """Begin a step, without waiting for the device unless it is logged.

        With groups, a clip's own record belongs to the step that was begun last.

        Raises:
            ValueError: If the record has other groups than this trace, or other layers than the
                steps before.
        """
        if isinstance(record, ClipRecord):
            if self.names:
                self.amend(record)
                return
        else:
            self._check(record)
        self._begin(Step(record))

    def _begin(self, step: Step) -> None:
        self._finish()
        self._last = step
        self._waiting.append(step)
        for log in self._logs:
            log.begin(self._rows.n_steps + len(self._waiting) - 1)
        if len(self._waiting) == _AT_ONCE:
            self._flush(keep=1)
        if self._optimizer is None:
            self._finish()  # nothing is attached that would amend it

    def _finish(self) -> None:
        """Give the last step to the loggers that have not seen it."""
        for log in [*self._logs]:
            log.finish()

    def follow(self, optimizer: object) -> None:
        """Keep the steps of this optimizer; ``attach`` calls it.

        Raises:
            ValueError: If the steps of another one are kept here: they would be mixed.
        """
        if self._optimizer is not None and self._optimizer() not in (None, optimizer):
            raise ValueError(
                "`trace` keeps the steps of another optimizer: use one Trace for each optimizer."
            )
        self._optimizer = weakref.ref(optimizer)

    def amend(self, record: ClipRecord) -> None:
        """Add what was done later to the step that was begun last; begin one if there is none.

        Where that step has such a record already, this one takes its place, or without groups
        begins a new step.

        Raises:
            ValueError: If the trace has groups and no step was begun.
        """
        last = self._last
        if last is None and self.names:
            raise ValueError(f"No step was begun that the record of {record.name} belongs to.")
        if last is None or (not self.names and record.name in last.stages()):
            self._begin(Step(None, (record,)))
            return
        others = [one for one in last.later if one.name != record.name]
        self._last = Step(last.record, (*others, record))
        if self._waiting:
            self._waiting[-1] = self._last
        else:
            self._rows.replace_last(self._rows_of([self._last])[0])

    def _check(self, record: StepRecord) -> None:
        if self._last is None and self._rows.n_steps == 0:
            self._layers = record.layers
        if record.layers != self._layers or record.raw.counts.shape != (len(self.names),):
            raise ValueError(
                f"`record` must have the groups {list(self.names)} and the layers {self._layers}, "
                f"got {len(record.raw.counts)} groups and the layers {record.layers}."
            )

    def _flush(self, keep: int = 0) -> None:
        """Move steps into the ring: many at once cost little more than one."""
        split = len(self._waiting) - keep
        moving, self._waiting = self._waiting[:split], self._waiting[split:]
        for _, alike in groupby(moving, key=Step.kind):
            for row in self._rows_of(list(alike)):
                self._rows.append(row)

    def _rows_of(self, steps: list[Step]) -> Tensor:
        """Return rows with all columns so far, (n, width); new columns are added to these."""
        columns, rows = flatten(steps, self.names, self._parameters)
        known = {*self._columns}
        if new := [column for column in columns if column not in known]:
            self._columns += new
            self._rows.widen(len(self._columns))
            self._rows.limit(_affordable(self.capacity, len(self._columns)))
        if columns == self._columns:
            return rows
        by_column = dict(zip(columns, rows.unbind(1), strict=True))
        none = torch.full_like(rows[:, 0], torch.nan)
        return torch.stack([by_column.get(column, none) for column in self._columns], 1)

    def _read(self) -> tuple[list[int], Tensor]:
        """Return the kept steps, and their rows (n, width)."""
        self._flush()
        steps, rows = self._rows.read()
        if not self._columns and self.names:
            self._columns = group_columns(self.names, self._layers)
        return steps, rows.reshape(len(steps), len(self._columns))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per kept step, oldest first; waits for the device once.

        Columns: ``step`` (from 0). With groups ``n[<name>]``, ``norm[<name>]``,
        ``cap_norm[<name>]``, ``factor[<name>]``, ``share[<name>]`` and ``nonfinite[<name>]`` of
        each; ``ratio_after``; ``norm_uncapped``, ``norm_capped``, ``norm_clipped``; ``cosine[cap]``
        between the gradient before and after the cap; with layers ``cap_norm[<layer>][<name>]`` and
        the factors likewise. ``nonfinite``, whether any gradient was, and ``first_nonfinite``, in
        which parameter first. For each mode of the clip ``norm_before[<mode>]``,
        ``norm_after[<mode>]``, ``threshold[<mode>]``, ``share_clipped[<mode>]``, ``cosine[<mode>]``
        and, for one with several scopes, ``norm_before[<mode>][<scope>]`` and so on; a second mode
        of the same name is ``<mode>#2``. With :class:`fairclip.clipping.Update` attached,
        ``update_norm`` and ``update_ratio``. NaN where a step has no such number. Without groups,
        ``norm_uncapped`` and ``norm_clipped`` are the norms before and after all modes.
        """
        steps, rows = self._read()
        frame = pd.DataFrame(rows.numpy(), columns=self._columns)
        frame.insert(0, "step", steps)
        counts = [f"n[{name}]" for name in self.names]
        flags = [f"nonfinite[{name}]" for name in self.names]
        if "first_nonfinite" in frame:
            codes = frame["first_nonfinite"].fillna(-1).astype(int)
            names = [*self._parameters, ""]
            frame["first_nonfinite"] = [names[code] for code in codes]
            flags.append("nonfinite")
        frame = frame.fillna(dict.fromkeys(flags, 0.0))
        kinds = dict.fromkeys(["step", *counts], "int64") | dict.fromkeys(flags, "bool")
        return frame.astype(kinds)

    def latest(self) -> dict[str, float]:
        """Return the numbers of the last step by their columns in `to_frame`; waits for the device.

        Those that it has, without NaN; a flag is 0 or 1. ``step`` and ``first_nonfinite``, a name,
        are not among them. Empty before the first step.
        """
        columns, row = self._columns, self._rows.last()  # empty before the first step
        if self._last is not None:
            columns, rows = flatten([self._last], self.names, {})
            row = rows[0]
        numbers = zip(columns, row.tolist(), strict=False)
        return {name: x for name, x in numbers if name != "first_nonfinite" and x == x}

    def log_to(self, log: Log, every: int = 50) -> LogHandle:
        """Call ``log(numbers, step)`` with what `latest` returns, from now on.

        A step is logged at its end; where a mode that is attached to an optimizer may still add to
        it (``attach(optimizer, trace=...)``), when the next one begins or the logger is removed.
        Only steps that are logged wait for the device. Loggers are not saved with the trace: add
        them to the new one of a resumed run, which goes on counting.

        Args:
            log: Any callable: ``run.log`` of a W&B run, a :class:`fairclip.trace.JsonLines`, or one
                of `fairclip.integrations`. What it raises comes out of the step.
            every: Steps 0, ``every``, 2 ``every``, ... are logged.

        Returns:
            A handle with ``remove()``, also a context manager that removes the logger at its end.

        Raises:
            TypeError: If ``log`` cannot be called.
            ValueError: If ``every`` is not a positive integer.

        Example:
            >>> import torch, fairclip
            >>> model = torch.nn.Linear(3, 1)
            >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
            >>> with clipper.trace.log_to(lambda numbers, step: print(step, numbers["n[1]"]), 2):
            ...     for _ in range(4):
            ...         with clipper.watch([0, 0, 0, 1]):
            ...             model(torch.randn(4, 3)).square().mean().backward()
            ...         record = clipper.clip_grad_()
            ...         model.zero_grad()
            0 1.0
            2 1.0
        """
        return LogHandle(log, every, self.latest, self._logs)

    def acted(self) -> Acted:
        """Return how often each stage acted: a factor of a present group other than 1, a clip.

        With layers, a cap that acted in one of them acted.
        """
        steps, rows = self._read()
        n_groups = len(self.names)
        present = rows[:, :n_groups] > 0
        n_layers = 1 if self._layers is None else len(self._layers)
        start, n_scoped = (2 + n_layers) * n_groups, n_layers * n_groups
        factors = rows[:, start : start + n_scoped].reshape(len(steps), n_layers, n_groups)
        capped = ((factors - 1).abs() > _TOLERANCE).any(1) & present
        places = {name: i for i, name in enumerate(self._columns)}
        stages = [name[len("share_clipped") :] for name in places if name.startswith("share_cl")]
        before, after = (
            rows[:, [places[f"{what}{stage}"] for stage in stages]]
            for what in ("norm_before", "norm_after")
        )
        return Acted(
            n_steps=len(steps),
            cap=_share(capped.any(1)),
            clip=_share(changed(before, after).any(1)),
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
            "parameters": tuple(self._parameters),
            "columns": tuple(self._columns),
            "capacity": self.capacity,
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
        expected = {"version": _VERSION, "names": self.names, "capacity": self.capacity}
        for name, value in expected.items():
            if state[name] != value:
                raise ValueError(f"`{name}` must be {value} as in this trace, got {state[name]}.")
        self._finish()
        self._layers = state["layers"]
        self._parameters = {name: code for code, name in enumerate(state["parameters"])}
        self._columns, self._waiting, self._last = [*state["columns"]], [], None
        self._rows.capacity = _affordable(self.capacity, len(self._columns))
        self._rows.restore(state["n_steps"], state["every"], state["steps"].tolist(), state["rows"])

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()  # pinned memory and copies under way are not for pickles

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["names"], state["capacity"])  # type: ignore[misc]
        self.load_state_dict(state)


def changed(before: Norms, after: Norms) -> Any:
    """Say where a stage changed the norm of a gradient; never where one is not finite."""
    return abs(after - before) > _TOLERANCE * before


def _affordable(capacity: int, width: int) -> int:
    return min(capacity, max(_LEAST, _MOST // max(width, 1)))


def _share(acted: Tensor) -> float:
    """Return the share of True, NaN without any."""
    return float(acted.double().mean())
