import pytest
import torch

from fairclip.clipping import Mode, Norm
from fairclip.clipping._mode import OptimizerMode
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import layers
from tests.clipping._modes import (
    every_mode,
    every_optimizer_mode,
    needs_cuda,
    state_after_some_steps,
)


@every_mode
def test_no_mode_waits_for_the_device(mode: Mode) -> None:
    named = list(layers().items())
    state = state_after_some_steps(mode, named)
    with NoWaiting():
        mode(named, state)
        mode(named, mode.init(named))  # the first step too


def test_a_norm_that_allows_everything_in_some_scopes_does_not_wait() -> None:
    mode = Norm(0.5, scope="layer", overrides={"embed.*": 0.1, "*.bias": float("inf")})
    with NoWaiting():
        mode(layers().items())


@every_optimizer_mode
def test_no_mode_of_an_optimizer_waits_for_the_device(mode: OptimizerMode) -> None:
    optimizer = torch.optim.SGD(list(layers().items()), lr=0.1, momentum=0.9)
    mode.attach(optimizer)
    with NoWaiting():
        optimizer.step()
        optimizer.step()


def test_the_guard_sees_what_it_should() -> None:
    ones = torch.ones(2)
    with NoWaiting():
        with pytest.raises(AssertionError, match="local_scalar_dense"):
            ones.max().item()
        with pytest.raises(AssertionError, match="index"):
            ones[ones > 0]


@pytest.mark.gpu
@needs_cuda
@every_mode
def test_no_mode_waits_for_a_gpu(mode: Mode) -> None:
    named = list(_on_gpu().items())
    state = state_after_some_steps(mode, named)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mode(named, state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@every_optimizer_mode
def test_no_mode_of_an_optimizer_waits_for_a_gpu(mode: OptimizerMode) -> None:
    optimizer = torch.optim.SGD(list(_on_gpu().items()), lr=0.1, momentum=0.9)
    mode.attach(optimizer)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _on_gpu() -> dict[str, torch.Tensor]:
    named: dict[str, torch.Tensor] = {
        name: torch.nn.Parameter(p.detach().cuda()) for name, p in layers().items()
    }
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    return named
