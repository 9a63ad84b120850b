"""Steps of the clipper that a review found wrong: accumulation, scaling, autocast, state."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, NormCap
from fairclip.gradients import GradientEngine
from tests.gradients._oracle import combined, group_gradients, norm

COUNTS = [600, 250, 150]
K = len(COUNTS)
CAP = NormCap.per_step(0.3)
CODES = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1])
B = len(CODES)
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def make_inputs(seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, 4, generator=random).double() * (K - CODES[:, None])


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def row_losses(model: nn.Module, inputs: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), TARGETS, reduction="none")


def watch(clipper: FairClipper, model: nn.Module, seed: int = 0) -> None:
    dtype = next(model.parameters()).dtype
    with clipper.watch(CODES):
        row_losses(model, make_inputs(seed).to(dtype)).mean().backward()


def oracle(model: nn.Module, *seeds: int) -> tuple[list[float], list[float], list[Tensor]]:
    """Return norms, factors and the capped gradient of batches that accumulate."""
    windows = [
        group_gradients(model, row_losses(model, make_inputs(seed)), CODES, K) for seed in seeds
    ]
    parts = [
        [torch.stack(tensors).sum(0) for tensors in zip(*part, strict=True)]
        for part in zip(*windows, strict=True)
    ]
    norms = [norm(part) for part in parts[:-1]]
    factors = [min(1.0, 0.3 * norms[2] / norms[k]) for k in range(K - 1)] + [1.0]
    return norms, factors, combined(parts, factors)


def assert_capped(
    record_norms: Tensor, model: nn.Module, expected: tuple[list[float], list[float], list[Tensor]]
) -> None:
    norms, factors, gradient = expected
    assert min(factors) < 0.9  # else nothing is tested
    assert record_norms.tolist() == pytest.approx(norms, rel=1e-9)
    found = [p.grad for p in model.parameters() if p.grad is not None]
    off = norm([a - b for a, b in zip(found, gradient, strict=True)])
    assert off <= 1e-10 * norm(gradient)


class Delta(nn.Module):
    """Autograd gives one tensor object for the gradient of both parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(3, 4))
        self.delta = nn.Parameter(torch.zeros(3, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.base + self.delta)


def delta() -> nn.Module:
    torch.manual_seed(0)
    return Delta().double()


@pytest.mark.parametrize("how", ["watch", "backward"])
def test_one_gradient_tensor_of_two_parameters_accumulates(how: str) -> None:
    model = delta()
    expected = oracle(model, 0, 1, 0)
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for seed in (0, 1, 0):
        if how == "watch":
            watch(clipper, model, seed)
        else:
            clipper.backward(row_losses(model, make_inputs(seed)), CODES)
    assert_capped(clipper.clip_grad_().group_norms, model, expected)


@pytest.mark.parametrize("how", ["watch", "backward"])
def test_one_gradient_tensor_of_two_parameters_is_unscaled_once(how: str) -> None:
    model = delta()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for seed in range(2):
        expected = oracle(model, seed)
        losses = row_losses(model, make_inputs(seed))
        if how == "watch":
            with clipper.watch(CODES):
                scaler.scale(row_losses(model, make_inputs(seed)).mean()).backward()
        else:
            clipper.backward(scaler.scale(losses), CODES)
        record = clipper.clip_grad_(scaler, optimizer)
        assert_capped(record.group_norms, model, expected)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


# ------------------------------------------------------------------ autocast and dtypes


def _clip_inside(clipper: FairClipper, model: nn.Module) -> Tensor:
    watch(clipper, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return clipper.clip_grad_().group_norms


def _watch_inside(clipper: FairClipper, model: nn.Module) -> Tensor:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        clipper.watch(CODES),
        torch.autocast("cpu", enabled=False),
    ):
        row_losses(model, make_inputs().float()).mean().backward()
    return clipper.clip_grad_().group_norms


@pytest.mark.parametrize("where", [_clip_inside, _watch_inside], ids=["clip_grad_", "watch"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_autocast_does_not_reach_the_measurement(
    where: Callable[[FairClipper, nn.Module], Tensor], scope: Literal["global", "layer"]
) -> None:
    norms, _, _ = oracle(mlp(), 0)
    model = mlp().float()
    cap = NormCap(0.3, scope=scope)
    clipper = FairClipper(model, cap, group_counts=COUNTS)
    assert where(clipper, model).tolist() == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("after_a_step", [True, False])
def test_a_model_may_become_float64_after_the_clipper_was_made(after_a_step: bool) -> None:
    model = mlp().float()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    if after_a_step:
        watch(clipper, model)
        clipper.clip_grad_()
        model.zero_grad()
    model.double()
    for seed in range(2):
        expected = oracle(model, seed)
        watch(clipper, model, seed)
        assert_capped(clipper.clip_grad_().group_norms, model, expected)
        model.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_preserved_norm_changes_no_bit_where_nothing_is_capped(
    dtype: torch.dtype, scope: Literal["global", "layer"]
) -> None:
    model = mlp().to(dtype)
    cap = NormCap(max_ratio=1e3, preserve_norm=True, scope=scope)
    clipper = FairClipper(model, cap, group_counts=COUNTS)
    for seed in range(10):
        row_losses(model, make_inputs(seed).to(dtype)).mean().backward()
        plain = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        watch(clipper, model, seed)
        assert bool((clipper.clip_grad_().factors == 1).all())
        for parameter, grad in zip(model.parameters(), plain, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, grad)
        model.zero_grad()


# ------------------------------------------------------------------ precision


def test_low_matmul_precision_changes_no_verdict() -> None:
    before = torch.get_float32_matmul_precision()
    norms, _, _ = oracle(mlp(), 0)
    model = mlp().float()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    torch.set_float32_matmul_precision("medium")
    try:
        watch(clipper, model)  # a warning is an error
        found = clipper.clip_grad_().group_norms
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.tolist() == pytest.approx(norms, rel=0.01)


def test_norms_of_a_large_layer() -> None:
    torch.manual_seed(0)
    size = 2000
    model = nn.Linear(size, size, bias=False)
    inputs = torch.rand(32, size) + 1
    codes = torch.tensor([0] * 20 + [1] * 8 + [-1] * 4)
    engine = GradientEngine(model, 2, check=False)
    with engine.watch(codes):
        model(inputs).mean().backward()
    squares = torch.as_tensor(engine.collect().gramian()).diagonal()[:2]
    exact = nn.Linear(size, 1, bias=False).double()  # every row of the weight has this gradient
    parts = group_gradients(exact, exact(inputs.double()).mean(1), codes, 2)
    expected = [norm(part) / size**0.5 for part in parts[:2]]
    assert squares.sqrt().tolist() == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------ state and rejected input


def test_the_state_cannot_be_saved_in_the_middle_of_a_step() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.raises(RuntimeError, match="under way"), clipper.watch(CODES):
        clipper.state_dict()
    watch(clipper, model)
    with pytest.raises(RuntimeError, match=r"under way.*clip_grad_"):
        clipper.state_dict()
    clipper.clip_grad_()
    clipper.state_dict()


def test_the_state_of_another_scope_is_refused() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    watch(clipper, model)
    clipper.clip_grad_()
    other = FairClipper(mlp(), NormCap(scope="layer"), group_counts=COUNTS)
    with pytest.raises(ValueError, match="scope"):
        other.load_state_dict(clipper.state_dict())


def test_a_removed_clipper_is_refused() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    watch(clipper, model)
    clipper.clip_grad_()
    model.zero_grad()
    clipper.remove()
    with pytest.raises(RuntimeError, match=r"removed.*new clipper"):
        watch(clipper, model)


@pytest.mark.parametrize("codes", [np.array(["a"] * B), ["a"] * B, np.array(["a"] * B, object)])
def test_names_are_no_codes(codes: list[int]) -> None:
    clipper = FairClipper(mlp(), CAP, group_counts=COUNTS)
    with pytest.raises(TypeError, match=r"integer codes.*GroupEncoder"), clipper.watch(codes):
        pass
