import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from fairclip import FairClipper
from fairclip.clipping import Chain, Norm, Update
from tests._no_waiting import NoWaiting
from tests.clipping._properties import assert_equal, assert_record_is_detached_scalars

Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: Adam(p, lr=0.1),
    "adamw, fused": lambda p: AdamW(p, lr=0.1, fused=True),
    "adagrad": lambda p: Adagrad(p, lr=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.1),
}
optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
SHAPES = ((3, 2), (4,), (), (0, 2))


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=random).to(dtype)) for s in SHAPES]


def give_gradients(parameters: list[Tensor], seed: int, scale: float = 1.0) -> None:
    random = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = (scale * torch.randn(p.shape, generator=random)).to(p.dtype)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


@optimizers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_step_keeps_its_direction_and_gets_the_length(name: str, dtype: torch.dtype) -> None:
    plain, clipped = weights(dtype), weights(dtype)
    plainly, optimizer = OPTIMIZERS[name](plain), OPTIMIZERS[name](clipped)
    handle = Update(max_norm=0.05).attach(optimizer)
    start = flat(plain)
    for parameters in (plain, clipped):
        give_gradients(parameters, 1)
    plainly.step()
    optimizer.step()
    step = flat(plain) - start
    expected = start + step * (0.05 / float(step.norm()))
    torch.testing.assert_close(flat(clipped), expected, rtol=0, atol=1e-6)
    record = handle.record
    assert record is not None
    assert_record_is_detached_scalars(record)
    assert record.name == "Update"
    assert float(record.norm_before) == pytest.approx(float(step.norm()), rel=1e-5)
    assert float(record.norm_after) == pytest.approx(0.05)
    assert float(record.threshold) == pytest.approx(0.05)
    assert float(record.share_clipped) == float(record.cosine) == 1  # type: ignore[arg-type]
    ratio = 0.05 / float(start.norm())
    assert float(record.ratio) == pytest.approx(ratio)  # type: ignore[arg-type]


@optimizers
@pytest.mark.parametrize("max_norm", [1e3, math.inf])
def test_short_steps_stay_bit_for_bit(name: str, max_norm: float) -> None:
    plain, watched = weights(), weights()
    plainly, optimizer = OPTIMIZERS[name](plain), OPTIMIZERS[name](watched)
    handle = Update(max_norm).attach(optimizer)
    for seed in range(5):
        before = flat(watched)
        for parameters in (plain, watched):
            give_gradients(parameters, seed)
        plainly.step()
        optimizer.step()
        assert_equal(watched, plain)
        assert handle.record is not None
        assert float(handle.record.share_clipped) == 0
        length = float((flat(watched) - before).norm())
        assert float(handle.record.norm_after) == pytest.approx(length, rel=1e-5)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    scale=st.floats(1e-6, 1e12),
    max_norm=st.floats(1e-6, 1e6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_step_is_longer(scale: float, max_norm: float, dtype: torch.dtype) -> None:
    """Also one that is so long that the weights' own digits are lost in it."""
    parameters = weights(dtype)
    optimizer = SGD(parameters, lr=1.0)
    Update(max_norm).attach(optimizer)
    give_gradients(parameters, 0, scale)
    old = flat(parameters)
    wanted = -flat([p.grad for p in parameters if p.grad is not None])
    wanted *= min(1.0, max_norm / float(wanted.norm()))
    optimizer.step()
    # Rounding: of the weights as they were, and of the factor.
    atol = float(torch.finfo(dtype).eps) * 2 * (float(old.norm()) + max_norm)
    torch.testing.assert_close(flat(parameters) - old, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_measured_in_float32(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.zeros(10_000, dtype=dtype))
    optimizer = SGD([weight], lr=1.0)
    handle = Update(1e4).attach(optimizer)
    weight.grad = torch.full_like(weight, -1000.0)
    optimizer.step()  # as long as 1e5, which is beyond float16
    assert handle.record is not None
    assert float(handle.record.norm_before) == pytest.approx(1e5, rel=1e-3)
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 100.0))


def test_several_dtypes_and_a_value_worked_by_hand() -> None:
    single = nn.Parameter(torch.tensor([1.0, 0.0]))
    double = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    optimizer = SGD([("a", single), ("b", double)], lr=0.5)
    handle = Update(max_norm=1.5).attach(optimizer)
    single.grad, double.grad = torch.tensor([2.0, -4.0]), torch.tensor([4.0], dtype=torch.float64)
    optimizer.step()  # by (-1, 2, -2), of length 3: half of it
    torch.testing.assert_close(single.detach(), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(double.detach(), torch.tensor([-1.0], dtype=torch.float64))
    record = handle.record
    assert record is not None
    assert float(record.norm_before) == pytest.approx(3)
    assert float(record.norm_after) == pytest.approx(1.5)
    assert float(record.ratio) == pytest.approx(1.5)  # type: ignore[arg-type]
    assert record.parameters == ("a", "b")


def test_what_is_not_finite_is_not_hidden() -> None:
    fine, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([fine, bad], lr=1.0)
    handle = Update(1.0).attach(optimizer)
    fine.grad, bad.grad = torch.ones(2), torch.tensor([math.inf, 1.0])
    optimizer.step()
    assert_equal([fine], [torch.ones(2)])
    assert bad.isnan().tolist() == [True, False]
    assert handle.record is not None
    assert int(handle.record.first_nonfinite) == 1  # type: ignore[arg-type]
    fine.grad = torch.tensor([math.nan, 1.0])
    optimizer.step()
    assert bool(fine.isnan().all())


def test_an_infinite_threshold_changes_nothing_whatever_the_step() -> None:
    weight = nn.Parameter(torch.tensor([0.0, -0.0, 1.0]))
    optimizer = SGD([weight], lr=1.0)
    handle = Update(math.inf).attach(optimizer)
    weight.grad = torch.tensor([-math.inf, 0.0, 1.0])
    optimizer.step()
    assert_equal([weight], [torch.tensor([math.inf, -0.0, 0.0])])
    assert bool(weight.signbit()[1])
    assert handle.record is not None
    assert math.isinf(handle.record.norm_after)
    assert float(handle.record.share_clipped) == 0


def test_weights_of_zero_have_no_ratio_and_nothing_to_move_is_a_record_of_zeros() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SGD([weight], lr=1.0)
    handle = Update(1.0).attach(optimizer)
    optimizer.step()
    assert handle.record is not None
    assert float(handle.record.norm_before) == 0
    assert math.isnan(handle.record.ratio)  # type: ignore[arg-type]
    weight.requires_grad_(False)
    optimizer.step()
    assert float(handle.record.norm_before) == 0


def test_no_step_waits_for_the_device() -> None:
    parameters = weights()
    optimizer = SGD(parameters, lr=0.1)
    Update(0.01).attach(optimizer)
    give_gradients(parameters, 0)
    with NoWaiting():
        optimizer.step()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_the_threshold_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`max_norm` must be positive, got"):
        Update(bad)


def test_it_works_by_attach_only() -> None:
    with pytest.raises(TypeError, match=r"use `Update\(\.\.\.\)\.attach\(optimizer\)`"):
        Update(1.0)(weights())
    with pytest.raises(TypeError, match="takes clipping modes"):
        Chain(Norm(1.0), Update(1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`clip` must be a clipping mode"):
        FairClipper(nn.Linear(2, 1), clip=Update(1.0), n_groups=2)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(Update(1.0))) == Update(1.0)


# ------------------------------------------------------------------ L-BFGS


def rosenbrock(w: Tensor) -> Tensor:
    """Return a bent valley per pair of coordinates; the minimum, 0, is at 1."""
    x, y = w[::2], w[1::2]
    return ((1 - x) ** 2 + 100 * (y - x**2) ** 2).sum()


def narrow(w: Tensor) -> Tensor:
    """Return a quadratic of condition 1e4 in 20 dimensions; the minimum, 0, is at 0."""
    return (torch.logspace(0, 4, len(w), dtype=w.dtype) * w**2).sum() / 2


START: dict[Callable[[Tensor], Tensor], Tensor] = {
    rosenbrock: torch.tensor([-1.2, 1.0] * 5, dtype=torch.float64),
    narrow: torch.ones(20, dtype=torch.float64),
}


@dataclass
class _Run:
    loss: float
    n_steps: int
    n_evaluations: int
    longest: float


def descend(
    function: Callable[[Tensor], Tensor], mode: Norm | Update, n_steps: int, **settings: Any
) -> _Run:
    """Go down by L-BFGS to a loss of 1e-10."""
    weight = nn.Parameter(START[function].clone())
    optimizer = LBFGS([weight], tolerance_grad=1e-12, tolerance_change=1e-16, **settings)
    mode.attach(optimizer)
    run = _Run(math.inf, 0, 0, 0.0)

    def closure() -> Tensor:
        run.n_evaluations += 1
        optimizer.zero_grad()
        loss = function(weight)
        loss.backward()
        return loss

    for _ in range(n_steps):
        old = weight.detach().clone()
        optimizer.step(closure)
        run.n_steps += 1
        run.longest = max(run.longest, float((weight.detach() - old).norm()))
        run.loss = float(function(weight.detach()))
        if not run.loss > 1e-10 or not math.isfinite(run.loss):
            break
    return run


@pytest.mark.parametrize("max_iter", [1, 20])
def test_lbfgs_diverges_on_clipped_gradients_and_not_with_short_steps(max_iter: int) -> None:
    free = descend(rosenbrock, Update(math.inf), 200, max_iter=max_iter)
    gradients = descend(rosenbrock, Norm(0.3), 200, max_iter=max_iter)
    steps = descend(rosenbrock, Update(0.3), 200, max_iter=max_iter)
    assert free.loss < 1e-10
    assert free.longest > 3
    assert not gradients.loss < 1e9
    assert steps.loss < 1e-10
    assert steps.longest <= 0.3 * (1 + 1e-9)


def test_a_line_search_on_clipped_gradients_is_slow_and_bounds_no_step() -> None:
    search: dict[str, Any] = {"max_iter": 20, "line_search_fn": "strong_wolfe"}
    free = descend(narrow, Update(math.inf), 40, **search)
    gradients = descend(narrow, Norm(0.5), 40, **search)
    steps = descend(narrow, Update(0.5), 40, **search)
    assert max(free.loss, gradients.loss, steps.loss) < 1e-10
    assert gradients.n_evaluations > 5 * free.n_evaluations
    assert steps.n_evaluations < 2.5 * free.n_evaluations
    assert gradients.longest > 4 * 0.5
    assert steps.longest <= 0.5 * (1 + 1e-9)
    assert steps.n_steps <= math.sqrt(20) / 0.5 + 2  # the way is sqrt(20) long


@pytest.mark.parametrize("max_iter", [1, 5])
def test_every_curvature_pair_is_of_a_step_that_was_taken(max_iter: int) -> None:
    """In a quadratic, the change of the gradient is the curvature times the step."""
    weight = nn.Parameter(START[narrow].clone())
    optimizer = LBFGS([weight], max_iter=max_iter)
    Update(0.1).attach(optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = narrow(weight)
        loss.backward()
        return loss

    places = [weight.detach().clone()]
    for _ in range(4):
        optimizer.step(closure)
        places.append(weight.detach().clone())
    state = optimizer.state[weight]
    curvature = torch.logspace(0, 4, 20, dtype=torch.float64)
    steps = torch.stack(state["old_stps"])
    torch.testing.assert_close(torch.stack(state["old_dirs"]), steps * curvature)
    if max_iter == 1:
        torch.testing.assert_close(steps, torch.stack(places).diff(dim=0)[:3])
    else:
        assert len(steps) == 4 * (max_iter - 1)  # none across the end of a step
