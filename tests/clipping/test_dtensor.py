"""Modes on DTensors of two ranks, and the same modes on the whole tensors in one process."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.multiprocessing.spawn import spawn

from fairclip.clipping import ClipRecord, Norm
from tests.clipping._hard_inputs import noise
from tests.clipping._modes import MODES, OPTIMIZER_MODES, clip

N_RANKS = 2
SHAPES = {"one.weight": (6, 4), "one.bias": (5,), "two.weight": (3, 4, 2), "two.bias": (1,)}
"""Two have rows for both ranks, unevenly in one; the last leaves the second rank nothing."""

LAYOUTS: dict[str, tuple[Placement | None, ...]] = {
    "sharded": (Shard(0),) * 4,
    "sharded by column": (Shard(1), Shard(0), Shard(1), Shard(0)),
    "replicated": (Replicate(),) * 4,
    "mixed": (Shard(0), None, Replicate(), Shard(0)),  # None: not a DTensor
}
NAMES = [*MODES, *OPTIMIZER_MODES]

Place = Callable[[Tensor, int], Tensor]
Result = dict[str, Any]


def parameters(place: Place) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        parameter = nn.Parameter(place(noise(*shape, seed=10 + i), i))
        parameter.grad = place(noise(*shape, seed=i), i)
        made[name] = parameter
    return made


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def numbers(record: ClipRecord) -> dict[str, Tensor]:
    """Return the record's own scalars."""
    names = ("norm_before", "norm_after", "threshold", "share_clipped", "cosine", "first_nonfinite")
    found = {name: getattr(record, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def apply(name: str, place: Place) -> Result:
    """Return all gradients after a mode of this name, or all weights, and its record."""
    made = parameters(place)
    if name in MODES:
        record = clip(MODES[name], made.items())
        after = {key: p.grad for key, p in made.items() if p.grad is not None}
    else:
        optimizer = torch.optim.SGD(list(made.items()), lr=0.5, momentum=0.9, foreach=False)
        handle = OPTIMIZER_MODES[name].attach(optimizer)
        optimizer.step()
        optimizer.step()
        assert handle.record is not None
        record, after = handle.record, {key: p.detach() for key, p in made.items()}
    return {"after": {key: whole(t) for key, t in after.items()}, "record": numbers(record)}


def of_a_gradient_with_nan(place: Place) -> Tensor:
    """Return which one a record names, where NaN is in the last row of the third."""
    made = parameters(place)
    gradient = noise(*SHAPES["two.weight"])
    gradient[-1] = torch.nan
    made["two.weight"].grad = place(gradient, 2)
    record = Norm(0.5, norm_type=float("inf"))(made.items())
    assert record.first_nonfinite is not None
    return record.first_nonfinite


def of_partial_gradients(place: Place, mesh: Any) -> str:
    made = parameters(place)
    made["one.bias"] = nn.Parameter(distribute_tensor(torch.ones(2), mesh, [Replicate()]))
    made["one.bias"].grad = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    with pytest.raises(TypeError) as error:
        Norm(0.5)(made.items())
    return str(error.value)


def work(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=N_RANKS,
        timeout=timedelta(seconds=60),
    )
    mesh = init_device_mesh("cpu", (N_RANKS,))
    results: dict[str, Any] = {}
    for layout, placements in LAYOUTS.items():

        def place(tensor: Tensor, i: int, placements: Any = placements) -> Tensor:
            placement = placements[i]
            return tensor if placement is None else distribute_tensor(tensor, mesh, [placement])

        for name in NAMES:
            try:
                results[f"{name}, {layout}"] = apply(name, place)
            except Exception as error:  # the other modes' results count all the same
                results[f"{name}, {layout}"] = {"error": str(error)}
        results[f"nan, {layout}"] = of_a_gradient_with_nan(place)
        results[f"partial, {layout}"] = of_partial_gradients(place, mesh)
    torch.save(results, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (folder,), nprocs=N_RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(N_RANKS)]


layouts = pytest.mark.parametrize("layout", LAYOUTS)


@layouts
@pytest.mark.parametrize("name", NAMES)
def test_dtensors_are_clipped_like_whole_tensors(
    name: str, layout: str, ranks: list[dict[str, Any]]
) -> None:
    expected = apply(name, lambda tensor, _: tensor)
    for found in ranks:
        torch.testing.assert_close(
            found[f"{name}, {layout}"], expected, rtol=1e-5, atol=1e-6, equal_nan=True
        )


@layouts
@pytest.mark.parametrize("name", NAMES)
def test_all_ranks_have_the_same_record(
    name: str, layout: str, ranks: list[dict[str, Any]]
) -> None:
    first, second = (found[f"{name}, {layout}"] for found in ranks)
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@layouts
def test_a_nan_on_one_rank_is_found_on_all(layout: str, ranks: list[dict[str, Any]]) -> None:
    assert [int(found[f"nan, {layout}"]) for found in ranks] == [2, 2]


@layouts
def test_parts_of_a_sum_are_named_in_an_error(layout: str, ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "'one.bias'" in found[f"partial, {layout}"]
        assert "redistribute" in found[f"partial, {layout}"]
