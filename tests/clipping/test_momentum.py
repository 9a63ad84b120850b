import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from fairclip.clipping import Chain, Momentum
from tests._no_waiting import NoWaiting
from tests.clipping._properties import assert_equal, assert_record_is_detached_scalars

Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, tuple[Make, str]] = {
    "sgd": (lambda p: SGD(p, lr=0.1, momentum=0.9), "momentum_buffer"),
    "sgd, one by one": (lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=False), "momentum_buffer"),
    "nesterov": (lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True), "momentum_buffer"),
    "rmsprop": (lambda p: RMSprop(p, lr=0.1, momentum=0.9), "momentum_buffer"),
    "adam": (lambda p: Adam(p, lr=0.1), "exp_avg"),
    "adamw, amsgrad": (lambda p: AdamW(p, lr=0.1, amsgrad=True), "exp_avg"),
    "adam, fused": (lambda p: Adam(p, lr=0.1, fused=True), "exp_avg"),
    "nadam": (lambda p: NAdam(p, lr=0.1), "exp_avg"),
}
optimizers = pytest.mark.parametrize("name", OPTIMIZERS)


def weights() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=random)) for s in ((3, 2), (4,), ())]


def give_gradients(parameters: list[Tensor], seed: int, scale: float = 1.0) -> None:
    random = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = scale * torch.randn(p.shape, generator=random)


@optimizers
def test_the_velocity_is_scaled_as_one_vector_and_the_step_stays(name: str) -> None:
    make, key = OPTIMIZERS[name]
    plain, damped = weights(), weights()
    plainly, optimizer = make(plain), make(damped)
    handle = Momentum(max_norm=0.05).attach(optimizer)
    give_gradients(plain, 1)
    give_gradients(damped, 1)
    plainly.step()
    optimizer.step()
    assert_equal(damped, plain)
    velocity = torch.cat([plainly.state[p][key].flatten() for p in plain])
    scaled = torch.cat([optimizer.state[p][key].flatten() for p in damped])
    length = float(velocity.norm())
    assert length > 0.05
    torch.testing.assert_close(scaled, velocity * (0.05 / length))
    record = handle.record
    assert record is not None
    assert_record_is_detached_scalars(record)
    assert record.name == "Momentum"
    assert float(record.norm_before) == pytest.approx(length)
    assert float(record.norm_after) == pytest.approx(0.05)
    assert float(record.threshold) == pytest.approx(0.05)
    assert float(record.share_clipped) == float(record.cosine) == 1  # type: ignore[arg-type]


@optimizers
@pytest.mark.parametrize("max_norm", [1e6, math.inf])
def test_a_short_velocity_changes_nothing(name: str, max_norm: float) -> None:
    make, _ = OPTIMIZERS[name]
    plain, watched = weights(), weights()
    plainly, optimizer = make(plain), make(watched)
    handle = Momentum(max_norm).attach(optimizer)
    for seed in range(5):
        give_gradients(plain, seed)
        give_gradients(watched, seed)
        plainly.step()
        optimizer.step()
        assert handle.record is not None
        assert float(handle.record.share_clipped) == 0
    assert_equal(watched, plain)


def drift(max_norm: float, name: str = "sgd") -> list[float]:
    """Return the lengths of 30 steps, of which the third has a spike of a thousand."""
    make, _ = OPTIMIZERS[name]
    weight = nn.Parameter(torch.zeros(4))
    optimizer = make([weight])
    Momentum(max_norm).attach(optimizer)
    lengths = []
    for number in range(30):
        old = weight.detach().clone()
        weight.grad = torch.full((4,), 500.0 if number == 2 else 0.5)
        optimizer.step()
        lengths.append(float((weight.detach() - old).norm()))
    return lengths


def test_a_spike_ends_with_its_step() -> None:
    free, damped = drift(math.inf), drift(10.0)
    assert free[2] == damped[2] == pytest.approx(100, rel=0.1)  # the step itself is not limited
    assert free[10] > 0.1 * 1000 * 0.9**8
    assert max(damped[3:]) <= 0.1 * (0.9 * 10 + 1) * (1 + 1e-6)  # lr (mu * max_norm + |g|)


def test_a_value_worked_by_hand() -> None:
    """Velocities 4, clipped to 2; 0.5 * 2 + 4 = 5, clipped to 2."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    handle = Momentum(max_norm=2.0).attach(optimizer)
    for expected, before in ((-4.0, 4.0), (-9.0, 5.0)):
        weight.grad = torch.tensor([4.0])
        optimizer.step()
        assert float(weight.detach()) == expected
        assert handle.record is not None
        assert float(handle.record.norm_before) == before
        assert float(optimizer.state[weight]["momentum_buffer"]) == 2


def test_parameters_without_a_buffer_take_no_part() -> None:
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = SGD([("unused", unused), ("used", used)], lr=0.1, momentum=0.9)
    handle = Momentum(1.0).attach(optimizer)
    optimizer.step()  # no gradient at all
    assert handle.record is not None
    assert float(handle.record.norm_before) == 0
    used.grad = torch.tensor([3.0, math.nan])
    optimizer.step()
    assert handle.record.parameters == ("used",)
    assert int(handle.record.first_nonfinite) == 0  # type: ignore[arg-type]
    assert not optimizer.state.get(unused)


def test_a_sparse_velocity_is_scaled_too() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), lr=0.1, momentum=0.9)
    handle = Momentum(1.0).attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        embedding(torch.tensor([1, 1, 3])).sum().backward()
        optimizer.step()
    buffer = optimizer.state[embedding.weight]["momentum_buffer"]
    assert float(buffer.to_dense().norm()) == pytest.approx(1.0)
    rest = math.sqrt(2 * (2 + 0.9 * 2 / math.sqrt(10)) ** 2 + 2 * (1 + 0.9 / math.sqrt(10)) ** 2)
    assert handle.record is not None
    assert float(handle.record.norm_before) == pytest.approx(rest)


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.1), torch.optim.Adagrad, RMSprop])
def test_an_optimizer_without_momentum_raises_at_the_first_step(make: Make) -> None:
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    optimizer = make(parameters)
    Momentum(1.0).attach(optimizer)
    give_gradients(parameters, 0)
    with pytest.raises(RuntimeError, match=r"keeps no momentum .* or attach `Update`"):
        optimizer.step()
    stayed = all(torch.equal(p.detach(), old) for p, old in zip(parameters, before, strict=True))
    assert stayed == (make is not torch.optim.Adagrad)  # of which one cannot tell before


def test_momentum_may_be_switched_off_and_on_while_it_is_remembered() -> None:
    parameters = weights()
    optimizer = SGD(parameters, lr=0.1)
    Momentum(1.0).attach(optimizer)
    for momentum in (0.9, 0.0, 0.9):
        optimizer.param_groups[0]["momentum"] = momentum
        give_gradients(parameters, 0)
        optimizer.step()


def test_no_step_waits_for_the_device() -> None:
    parameters = weights()
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    Momentum(0.1).attach(optimizer)
    give_gradients(parameters, 0)
    with NoWaiting():
        optimizer.step()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_the_threshold_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`max_norm` must be positive, got"):
        Momentum(bad)


def test_it_works_by_attach_only() -> None:
    with pytest.raises(TypeError, match=r"use `Momentum\(\.\.\.\)\.attach\(optimizer\)`"):
        Momentum(1.0)(weights())
    with pytest.raises(TypeError, match="takes clipping modes"):
        Chain(Momentum(1.0))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(Momentum(1.0))) == Momentum(1.0)
