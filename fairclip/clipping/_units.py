"""Gradients as matrices with one row a unit, many small ones in one. Shapes: R units, F fan-in."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairclip.clipping._flat import PIECE
from fairclip.clipping._gradients import is_sharded


def pieces(values: list[Tensor]) -> Iterator[list[int]]:
    """Yield the places of tensors of one shape that are worth a copy: it costs less than a call.

    Large ones and DTensors are alone, those without elements are left out.
    """
    by_kind: dict[object, list[int]] = {}
    for place, value in enumerate(values):
        if value.numel():
            kind = type(value), value.shape, value.dtype, value.device
            by_kind.setdefault(kind, []).append(place)
    for places in by_kind.values():
        first = values[places[0]]
        together = 1 if is_sharded(first) else max(1, PIECE // first.numel())
        for start in range(0, len(places), together):
            yield places[start : start + together]


def rows(tensors: list[Tensor]) -> Tensor:
    """Return a copy of a piece's tensors as (R, F), a vector in one row; one alone as it is."""
    if len(tensors) == 1:
        return tensors[0]
    stacked = torch.stack(tensors)
    return stacked.flatten(0, 1).flatten(1) if stacked.ndim > 2 else stacked.view(len(tensors), -1)


def write_back(matrix: Tensor, tensors: list[Tensor]) -> None:
    """Undo `rows`, after a change of the matrix."""
    if len(tensors) > 1:
        views = matrix.view(len(tensors), *tensors[0].shape).unbind()
        torch._foreach_copy_(tensors, views)


def fan_in(unit: Tensor) -> tuple[int, ...] | None:
    """Return the dimensions within a unit; None, for all of them, for vectors and scalars."""
    return tuple(range(1, unit.ndim)) or None


def own(numbers: Any, gradient: Any) -> Tensor:
    """Return the numbers, one a unit, of this rank's part of a DTensor; of another tensor all."""
    part: Tensor = numbers
    if is_sharded(gradient):
        from torch.distributed.tensor import Replicate

        # By hand: DTensor's own operators reject dimensions of size 1 that are sharded.
        placements = [
            place if gradient.ndim > 1 and place.is_shard(0) else Replicate()
            for place in gradient.placements
        ]
        part = numbers.redistribute(placements=placements).to_local()
    return part
