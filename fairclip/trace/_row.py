"""Steps as rows of numbers. Shapes: n steps, K groups, L layers, S scopes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fairclip._arrays import Array, to_device
from fairclip.clipping import ClipRecord
from fairclip.trace._record import StepRecord, kind, work_out

BY_GROUP = {"n": "counts", "norm": "group_norms", "cap_norm": "cap_norms", "factor": "factors"}
SCALARS = ("ratio_after", "norm_uncapped", "norm_capped", "norm_clipped")
OF_STAGE = ("norm_before", "norm_after", "threshold", "share_clipped", "cosine")
OF_SCOPE = ("norm_before", "norm_after", "threshold")


@dataclass(frozen=True, slots=True)
class Step:
    """What was recorded of one step.

    Args:
        record: What was done to the gradient, None where only the optimizer's part is known.
        later: What was done after it, in the optimizer.
    """

    record: StepRecord | ClipRecord | None
    later: tuple[ClipRecord, ...] = ()

    @property
    def clip(self) -> ClipRecord | None:
        """What the clip did, None without one."""
        return self.record.clip if isinstance(self.record, StepRecord) else self.record

    def stages(self) -> dict[str, ClipRecord]:
        """Return the records of all modes by name, in their order; a second "Norm" is "Norm#2"."""
        named: dict[str, ClipRecord] = {}
        found = () if self.clip is None else _leaves(self.clip)
        for record in (*found, *self.later):
            number = sum(name.partition("#")[0] == record.name for name in named) + 1
            named[record.name if number == 1 else f"{record.name}#{number}"] = record
        return named

    def kind(self) -> tuple[object, ...]:
        """Return what steps that are worked out together have in common."""
        record = self.record
        own = kind(record) if isinstance(record, StepRecord) else ()
        parameters = () if record is None else record.parameters
        stages = [
            (name, r.cosine is None, r.ratio is None, None if r.scopes is None else r.scopes.names)
            for name, r in self.stages().items()
        ]
        return type(record), own, parameters, tuple(stages)


def group_columns(names: Sequence[str], layers: Sequence[str] | None) -> list[str]:
    """Return the columns that every step with groups has."""
    groups = [f"[{name}]" for name in names]
    scoped = groups if layers is None else [f"[{a}]{b}" for a, b in product(layers, groups)]
    places = {"cap_norm": scoped, "factor": scoped}
    columns = [f"{what}{place}" for what in BY_GROUP for place in places.get(what, groups)]
    shares, nonfinite = ([f"{what}{group}" for group in groups] for what in ("share", "nonfinite"))
    return [*columns, *shares, *SCALARS, "cosine[cap]", "nonfinite", "first_nonfinite", *nonfinite]


def flatten(
    steps: Sequence[Step], names: Sequence[str], codes: dict[str, int]
) -> tuple[list[str], Tensor]:
    """Return the columns of steps of one kind and their rows, (n, width); waits for nothing.

    Args:
        steps: The steps.
        names: Of the groups.
        codes: A number for each parameter's name, as which ``first_nonfinite`` is kept; it grows.
    """
    records = [step.record for step in steps]
    grouped = [record for record in records if isinstance(record, StepRecord)]
    alone = [record for record in records if isinstance(record, ClipRecord)]
    columns, parts = _of_groups(grouped, names, codes) if grouped else ([], [])
    if alone:
        columns, parts = _without_groups(alone, codes)
    all_stages = [step.stages() for step in steps]
    for stage in all_stages[0]:
        for column, part in _of_stage(stage, [stages[stage] for stages in all_stages]):
            columns += column
            parts.append(part)
    return columns, torch.cat([_as_rows(part, len(steps)) for part in parts], -1)


def _of_groups(
    records: Sequence[StepRecord], names: Sequence[str], codes: dict[str, int]
) -> tuple[list[str], list[Array]]:
    numbers = work_out(records)
    nonfinite = numbers["nonfinite"]
    first = torch.stack([torch.as_tensor(record.raw.first_nonfinite) for record in records])
    parts = [
        *(numbers[name] for name in (*BY_GROUP.values(), "share", *SCALARS, "cosine_capped")),
        torch.as_tensor(nonfinite).any(-1) | (first >= 0),
        _coded(first, records[0].parameters, codes),
        nonfinite,
    ]
    return group_columns(names, records[0].layers), parts


def _without_groups(
    records: Sequence[ClipRecord], codes: dict[str, int]
) -> tuple[list[str], list[Array]]:
    before, after = (
        torch.stack([getattr(record, name) for record in records])
        for name in ("norm_before", "norm_after")
    )
    nonfinite = ~before.isfinite()
    first = torch.full(before.shape, -1, device=before.device)
    found = [r.first_nonfinite for r in records if r.first_nonfinite is not None]
    if len(found) == len(records):
        first = torch.stack(found)
        nonfinite = first >= 0
    columns = ["norm_uncapped", "norm_clipped", "nonfinite", "first_nonfinite"]
    return columns, [before, after, nonfinite, _coded(first, records[0].parameters, codes)]


def _coded(places: Tensor, names: Sequence[str], codes: dict[str, int]) -> Tensor:
    """Return the numbers of the names at these places, (n,); -1 stays."""
    own = [codes.setdefault(name, len(codes)) for name in names]
    if own == [*range(len(own))]:
        return places
    table = torch.tensor([*own, -1])
    return to_device(table, places.device)[places]


def _of_stage(name: str, records: Sequence[ClipRecord]) -> Iterable[tuple[list[str], Tensor]]:
    one = records[0]
    for what in OF_STAGE if one.cosine is not None else OF_STAGE[:-1]:
        yield [f"{what}[{name}]"], torch.stack([getattr(record, what) for record in records])
    if one.ratio is not None:
        yield ["update_norm"], torch.stack([record.norm_after for record in records])
        yield (
            ["update_ratio"],
            torch.stack([record.ratio for record in records if record.ratio is not None]),
        )
    if one.scopes is not None:
        for what in OF_SCOPE:
            columns = [f"{what}[{name}][{scope}]" for scope in one.scopes.names]
            yield columns, torch.stack([getattr(record.scopes, what) for record in records])


def _leaves(record: ClipRecord) -> Iterable[ClipRecord]:
    if not record.stages:
        yield record
    for stage in record.stages:
        yield from _leaves(stage)


def _as_rows(part: Array, n_steps: int) -> Tensor:
    return torch.as_tensor(part).to(torch.float64).reshape(n_steps, -1)
