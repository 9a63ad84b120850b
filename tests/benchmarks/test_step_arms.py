"""All arms that compute the cap leave the same gradient. Tiny models; nothing is timed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.benchmarks._floor_host import OnHost
from tests.benchmarks._floor_kernels import ByConvolution, Flat, FromRows, Materialised, Part
from tests.benchmarks._floor_layers import record
from tests.benchmarks._step_arms import (
    Backward,
    autograd_loop,
    exact,
    group_losses,
    lagged,
    plain,
    reference,
)
from tests.benchmarks._step_floor import cap, floor
from tests.benchmarks._step_models import Batch, Transformer, Workload, make_batch, make_model, mlp
from tests.benchmarks._step_rivals import opacus_hooks, torchjd_cap

CPU = torch.device("cpu")


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 3),
    )


MLP = Workload(lambda: mlp(4, 6, 3), 24, (4,), 3)
CONVOLUTIONS = Workload(convolutions, 24, (2, 8, 8), 3)
TRANSFORMER = Workload(lambda: Transformer(11, 5, 8, 2, 1, 3), 24, (5,), 3, n_tokens=11)
GROUPS = pytest.mark.parametrize(
    ("n_groups", "minority"), [(2, "20"), (4, "40"), (5, "balanced")]
)  # the second and the third have groups of different sizes, so padding


def gradients(
    make: Callable[[nn.Module, Batch], Backward], workload: Workload, batch: Batch
) -> list[Tensor]:
    model = make_model(workload, CPU)
    make(model, batch)()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@GROUPS
@pytest.mark.parametrize("workload", [MLP, CONVOLUTIONS])
@pytest.mark.parametrize("make", [exact, floor, torchjd_cap, opacus_hooks])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_every_exact_arm_leaves_the_gradient_of_the_loop(
    make: Callable[[nn.Module, Batch], Backward], workload: Workload, n_groups: int, minority: str
) -> None:
    batch = make_batch(workload, n_groups, minority, CPU)
    expected = gradients(autograd_loop, workload, batch)
    torch.testing.assert_close(gradients(make, workload, batch), expected, rtol=1e-4, atol=1e-6)
    uncapped = gradients(plain, workload, batch)
    assert all((a - b).norm() > 1e-3 * b.norm() for a, b in zip(expected, uncapped, strict=True)), (
        "the cap must act"
    )


@pytest.mark.parametrize("workload", [MLP, CONVOLUTIONS])
def test_the_lagged_arm_leaves_it_where_the_norms_stay_as_they_are(workload: Workload) -> None:
    batch = make_batch(workload, 4, "40", CPU)
    expected = gradients(autograd_loop, workload, batch)
    model = make_model(workload, CPU)
    step = lagged(model, batch)
    for _ in range(3):  # the second measures
        model.zero_grad()
        step()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@GROUPS
@pytest.mark.parametrize("workload", [MLP, CONVOLUTIONS, TRANSFORMER])
def test_the_floors_kernels_measure_every_layer(
    workload: Workload, n_groups: int, minority: str
) -> None:
    model, batch = make_model(workload, CPU), make_batch(workload, n_groups, minority, CPU)
    losses = group_losses(model, batch, [batch.rows(group) for group in range(n_groups)])
    layers = record(model, batch)
    matrices = {name: id(p) for name, p in model.named_parameters() if p.ndim > 1}
    embeddings = {"tokens.weight", "positions.weight"}
    assert {id(x.weight) for x in layers} == {matrices[n] for n in matrices.keys() - embeddings}
    for layer in layers:
        by_group = [
            torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in losses
        ]
        ways: list[Part] = [Materialised(layer), FromRows(layer)]
        for way in [*ways, ByConvolution(layer)] if layer.convolution else ways:
            (largest, *_), (others, *_) = way.measure()
            torch.testing.assert_close(
                torch.stack([largest.norm(), *others]), torch.stack(by_group)
            )


@GROUPS
@pytest.mark.parametrize("way", ["materialised", "from rows", "flat", "on host"])
def test_the_floors_kernels_write_the_same(way: str, n_groups: int, minority: str) -> None:
    batch, model = make_batch(MLP, n_groups, minority, CPU), make_model(MLP, CPU)
    layers = record(model, batch)
    if way == "on host":
        OnHost(layers, reference(batch))()
    else:
        parts: dict[str, list[Part]] = {
            "materialised": [Materialised(layer) for layer in layers],
            "from rows": [FromRows(layer) for layer in layers],
            "flat": [Flat(layers)],
        }
        cap(parts[way], reference(batch))
    written = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(written, gradients(autograd_loop, MLP, batch), rtol=1e-4, atol=1e-6)
