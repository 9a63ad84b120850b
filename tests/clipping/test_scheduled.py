import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler

from fairclip.clipping import (
    Centralize,
    Chain,
    Constant,
    Cosine,
    Linear,
    Mode,
    Norm,
    Normalize,
    Scheduled,
    Smoothness,
    Value,
)
from fairclip.clipping._attach import Handle
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import BANK, layers, parameters
from tests.clipping._properties import assert_equal, gradients

SCHEDULES = (Constant(0.5), Linear(0.25, 1.0, 3), Cosine(1.0, 0.25, 3))
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def doubled(step: int) -> float:
    return 2.0**step


def by_torch(
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler], n_steps: int
) -> list[float]:
    """Return the factors that a scheduler of torch multiplies the learning rate by."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    made = scheduler(optimizer)
    factors = []
    for _ in range(n_steps):
        factors.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        made.step()
    return factors


def test_linear_is_that_of_torch() -> None:
    theirs = by_torch(lambda o: LinearLR(o, start_factor=0.1, end_factor=0.9, total_iters=7), 12)
    assert [Linear(0.1, 0.9, 7)(step) for step in range(12)] == pytest.approx(theirs)


def test_cosine_is_that_of_torch_until_its_end_and_then_stays() -> None:
    theirs = by_torch(lambda o: CosineAnnealingLR(o, T_max=7, eta_min=0.1), 8)
    assert [Cosine(1.0, 0.1, 7)(step) for step in range(8)] == pytest.approx(theirs)
    assert Cosine(1.0, 0.1, 7)(50) == pytest.approx(0.1)


def test_steps_are_counted_as_by_torch() -> None:
    theirs = by_torch(lambda o: LambdaLR(o, doubled), 4)
    mode = Scheduled(Norm(1.0), doubled)
    state = mode.init([])
    assert [float(mode(parameters([torch.ones(1)]), state).threshold) for _ in theirs] == theirs


@schedules
@pytest.mark.parametrize(
    ("mode", "of"), [(Norm(2.0), Norm), (Value(2.0), Value), (Normalize(2.0), Normalize)]
)
@pytest.mark.parametrize("name", BANK)
def test_each_step_is_the_mode_with_its_threshold_times_the_factor(
    mode: Mode, of: Callable[[float], Mode], schedule: Any, name: str
) -> None:
    scheduled = Scheduled(mode, schedule)
    state = scheduled.init(parameters(BANK[name]()))
    for step in range(5):
        ours, theirs = parameters(BANK[name]()), parameters(BANK[name]())
        record = scheduled(ours, state)
        expected = of(2.0 * schedule(step))(theirs)
        assert_equal(gradients(ours), gradients(theirs))
        assert record.name == expected.name
        assert torch.equal(record.threshold, expected.threshold)


def test_overrides_and_chains_are_scaled_as_a_whole() -> None:
    chain = Chain(Value(2.0), Norm(4.0, overrides={"embed.*": 1.0}))
    scheduled = Scheduled(chain, Constant(0.5))
    ours, theirs = layers(), layers()
    record = scheduled(ours.items(), scheduled.init(ours.items()))
    Chain(Value(1.0), Norm(2.0, overrides={"embed.*": 0.5}))(theirs.items())
    assert_equal(gradients(list(ours.values())), gradients(list(theirs.values())))
    assert float(record.stages[0].threshold) == 1


def test_a_schedule_in_a_chain_and_of_a_schedule() -> None:
    twice = Scheduled(Chain(Scheduled(Norm(8.0), doubled), Value(100.0)), Constant(0.25))
    clipped = parameters([torch.tensor([1000.0])])
    state = twice.init(clipped)
    thresholds = [float(twice(clipped, state).stages[0].threshold) for _ in range(3)]
    assert thresholds == [2.0, 4.0, 8.0]


class Recorded:
    """A trace that keeps thresholds."""

    def __init__(self) -> None:
        self.thresholds: list[float] = []

    def follow(self, optimizer: torch.optim.Optimizer, /) -> None: ...

    def append(self, record: Any, /) -> None:
        self.thresholds.append(float(record.threshold))

    def amend(self, record: Any, /) -> None: ...


def test_the_trace_shows_the_threshold_of_every_step() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    trace = Recorded()
    Scheduled(Norm(2.0), Linear(0.5, 1.0, 2)).attach(optimizer, trace=trace)
    for _ in range(4):
        weight.grad = torch.tensor([10.0])
        optimizer.step()
    assert trace.thresholds == [1.0, 1.5, 2.0, 2.0]


def _attached() -> tuple[Tensor, torch.optim.Optimizer, Handle]:
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.4)
    chain = Chain(Smoothness(1.0, max_growth=3.0, upper=4.0), Value(3.0))
    return weight, optimizer, Scheduled(chain, Cosine(2.0, 0.5, 8)).attach(optimizer)


def _train(weight: Tensor, optimizer: torch.optim.Optimizer, n_steps: int) -> None:
    for _ in range(n_steps):
        optimizer.zero_grad()
        (weight**4 + 3 * weight**2).sum().backward()
        optimizer.step()


def test_a_resumed_run_is_the_run() -> None:
    weight, optimizer, handle = _attached()
    _train(weight, optimizer, 4)
    saved = copy.deepcopy((weight.detach(), handle.state_dict()))
    _train(weight, optimizer, 4)
    resumed, new_optimizer, new_handle = _attached()
    with torch.no_grad():
        resumed.copy_(saved[0])
    new_handle.load_state_dict(saved[1])
    _train(resumed, new_optimizer, 4)
    assert_equal([resumed], [weight])
    assert new_handle.state_dict()["step"] == 8


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, None, "1", torch.ones(())])
def test_a_factor_that_is_no_positive_number_is_reported_with_its_step(bad: Any) -> None:
    mode = Scheduled(Norm(1.0), lambda step: 1.0 if step < 2 else bad)
    clipped = parameters([torch.tensor([5.0])])
    state = mode.init(clipped)
    mode(clipped, state)
    mode(clipped, state)
    before = gradients(clipped)
    with pytest.raises(ValueError, match=r"positive number, got .* in step 2\."):
        mode(clipped, state)
    assert_equal(gradients(clipped), before)


@pytest.mark.parametrize("factor", [1, np.float32(0.5), math.inf])
def test_every_real_number_is_a_factor(factor: Any) -> None:
    mode = Scheduled(Norm(2.0), lambda _: factor)
    assert float(mode([], mode.init([])).threshold) == 2 * float(factor)


def test_it_does_not_wait_for_the_device() -> None:
    named = layers()
    mode = Scheduled(Chain(Value(1.0), Norm(0.5)), Linear(0.5, 1.0, 2))
    state = mode.init(named.items())
    with NoWaiting():
        mode(named.items(), state)
        mode(named.items(), state)


@schedules
def test_it_survives_pickling(schedule: Any) -> None:
    mode = Scheduled(Norm(1.0), schedule)
    assert pickle.loads(pickle.dumps(mode)) == mode


def test_the_state_is_needed() -> None:
    with pytest.raises(ValueError, match="counts its steps"):
        Scheduled(Norm(1.0), Constant(1.0))([])


def test_a_mode_without_a_threshold_is_rejected_at_once() -> None:
    with pytest.raises(TypeError, match="Centralize has no threshold"):
        Scheduled(Centralize(), Constant(1.0))
    with pytest.raises(TypeError, match="`mode` must be a clipping mode"):
        Scheduled(1.0, Constant(1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`schedule` must be a function of the step"):
        Scheduled(Norm(1.0), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, -0.5, math.nan])
def test_factors_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="`factor` must be positive, got"):
        Constant(bad)
    for schedule in (Linear, Cosine):
        with pytest.raises(ValueError, match="`start_factor` must be positive, got"):
            schedule(bad, 1.0, 5)
        with pytest.raises(ValueError, match="`end_factor` must be positive, got"):
            schedule(1.0, bad, 5)


@pytest.mark.parametrize("bad", [0, -1, 2.5])
def test_the_length_must_be_a_whole_number(bad: Any) -> None:
    for schedule in (Linear, Cosine):
        with pytest.raises(ValueError, match="`total_iters` must be a whole number"):
            schedule(0.5, 1.0, bad)
