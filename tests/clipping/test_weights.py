import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from fairclip.clipping import Chain, Weights
from tests._no_waiting import NoWaiting
from tests.clipping._properties import assert_equal, assert_record_is_detached_scalars


def weights(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = ((30, 20), (4,), (), (0, 2), (3, 2), (70, 1000))
    return [nn.Parameter(torch.randn(s, generator=random).to(dtype)) for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("max_value", [1e-3, 0.5, 100.0, math.inf])
def test_every_weight_is_clamped_after_the_step(dtype: torch.dtype, max_value: float) -> None:
    plain, clipped = weights(dtype), weights(dtype)
    for p in (*plain, *clipped):
        p.grad = torch.ones_like(p)
    SGD(plain, lr=0.1).step()
    optimizer = SGD(clipped, lr=0.1)
    handle = Weights(max_value).attach(optimizer)
    optimizer.step()
    assert_equal(clipped, [p.clamp(-max_value, max_value) for p in plain])
    record = handle.record
    assert record is not None
    assert_record_is_detached_scalars(record)
    before = torch.cat([p.detach().double().flatten() for p in plain])
    after = torch.cat([p.detach().double().flatten() for p in clipped])
    assert float(record.norm_before) == pytest.approx(float(before.norm()), rel=1e-5)
    assert float(record.norm_after) == pytest.approx(float(after.norm()), rel=1e-5)
    assert float(record.share_clipped) == pytest.approx(float((before != after).double().mean()))
    cosine = float(torch.cosine_similarity(before, after, 0))
    assert float(record.cosine) == pytest.approx(cosine, rel=1e-5)  # type: ignore[arg-type]
    assert float(record.threshold) == pytest.approx(max_value)
    assert record.name == "Weights"


def test_a_value_worked_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0, -4.0, 0.5, -0.5]))
    optimizer = SGD([weight], lr=1.0)
    handle = Weights(max_value=1.0).attach(optimizer)
    weight.grad = torch.tensor([0.0, 0.0, 0.0, 1.5])  # the step takes -0.5 to -2
    optimizer.step()
    assert_equal([weight], [torch.tensor([1.0, -1.0, 0.5, -1.0])])
    assert handle.record is not None
    assert float(handle.record.share_clipped) == 0.75
    assert float(handle.record.norm_before) == pytest.approx(math.sqrt(9 + 16 + 0.25 + 4))
    assert float(handle.record.norm_after) == pytest.approx(math.sqrt(3.25))


def test_frozen_weights_and_those_without_a_gradient() -> None:
    """The limit is one of the weights, whatever moved them; a frozen one is not the optimizer's."""
    frozen, idle = nn.Parameter(torch.tensor([9.0]), False), nn.Parameter(torch.tensor([9.0]))
    optimizer = SGD([frozen, idle], lr=1.0)
    Weights(1.0).attach(optimizer)
    optimizer.step()
    assert_equal([frozen, idle], [torch.tensor([9.0]), torch.tensor([1.0])])


def test_inf_becomes_the_limit_and_nan_stays() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = SGD([weight], lr=1.0)
    Weights(2.0).attach(optimizer)
    weight.grad = torch.tensor([math.inf, -math.inf, math.nan])
    optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.tensor([-2.0, 2.0, math.nan]), equal_nan=True, rtol=0, atol=0
    )


def test_the_critic_of_a_wgan_is_lipschitz() -> None:
    """Without the limit the critic of two point masses grows steeper with every step."""

    def slope(max_value: float) -> float:
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Linear(1, 8, False), nn.ReLU(), nn.Linear(8, 1, False))
        optimizer = Adam(critic.parameters(), lr=0.01)
        Weights(max_value).attach(optimizer)
        for _ in range(300):
            optimizer.zero_grad()
            (critic(torch.ones(1)) - critic(-torch.ones(1))).backward()
            optimizer.step()
        ends = critic(torch.tensor([[1.0], [-1.0]])).detach()
        return float((ends[1] - ends[0]) / 2)

    assert slope(math.inf) > 5
    assert 0.01 < slope(0.1) <= 8 * 0.1 * 0.1


def test_no_step_waits_for_the_device() -> None:
    parameters = weights()
    optimizer = SGD(parameters, lr=0.1)
    Weights(0.1).attach(optimizer)
    with NoWaiting():
        optimizer.step()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_the_limit_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`max_value` must be positive, got"):
        Weights(bad)


def test_it_works_by_attach_only() -> None:
    with pytest.raises(TypeError, match=r"use `Weights\(\.\.\.\)\.attach\(optimizer\)`"):
        Weights(1.0)(weights())
    with pytest.raises(TypeError, match="takes clipping modes"):
        Chain(Weights(1.0))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(Weights(1.0))) == Weights(1.0)
