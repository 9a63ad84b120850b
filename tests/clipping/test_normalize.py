import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairclip.clipping import Chain, Normalize, Value
from tests._no_waiting import NoWaiting
from tests.clipping._hard_inputs import HARD, Make
from tests.clipping._inputs import BANK, layers, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_record_is_detached_scalars,
    assert_record_is_true,
    gradients,
    norm_of,
)

jax.config.update("jax_platforms", "cpu")

bank = pytest.mark.parametrize("name", BANK)
TINY = float(np.finfo(np.float64).tiny)  # XLA takes what is smaller for 0
ZERO = ("zero",)
NEAR_EPSILON = ("tiny",)


def by_optax(values: list[Tensor | None], norm: float) -> list[Any]:
    """Return what optax makes of gradients, in float64."""
    with jax.enable_x64(True):
        updates = [jnp.asarray(v.double().numpy()) for v in values if v is not None]
        transform = optax.normalize_by_update_norm(scale_factor=norm)
        done, _ = transform.update(updates, transform.init(updates))
        return [np.asarray(update) for update in done]


def assert_equals_optax(values: list[Tensor | None], norm: float, rtol: float) -> None:
    ours = parameters(values)
    Normalize(norm)(ours)
    with_gradient = [p.grad for p in ours if p.grad is not None]
    for a, e in zip(with_gradient, by_optax(values, norm), strict=True):
        np.testing.assert_allclose(a.double().numpy(), e, rtol=rtol, atol=1e6 * norm * TINY)


@pytest.mark.parametrize("make", HARD.values(), ids=HARD.keys())
@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e3])
def test_equals_optax(make: Make, norm: float) -> None:
    values = make()
    half = any(v is not None and v.dtype.itemsize < 4 for v in values)
    assert_equals_optax(values, norm, rtol=1e-2 if half else 1e-5)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6),
    norm=st.floats(1e-3, 1e3),
)
def test_equals_optax_on_random_gradients(values: list[float], norm: float) -> None:
    assert_equals_optax([torch.tensor(values, dtype=torch.float64)], norm, rtol=1e-12)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_nonfinite_gradients_become_what_optax_makes_of_them(bad: float) -> None:
    values: list[Tensor | None] = [torch.tensor([1.0, bad]), torch.ones(2)]
    assert_equals_optax(values, 1.0, rtol=0)


@pytest.mark.parametrize("name", [n for n in BANK if n not in ZERO + NEAR_EPSILON])
@pytest.mark.parametrize("norm", [0.5, 50.0])
def test_every_gradient_gets_the_norm(name: str, norm: float) -> None:
    clipped = parameters(BANK[name]())
    Normalize(norm)(clipped)
    assert norm_of(clipped) == pytest.approx(norm, rel=1e-2 if "float16" in name else 1e-5)


@bank
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_the_record_is_true(name: str, scope: Any) -> None:
    rtol = 2e-2 if "float16" in name else 1e-5
    record = assert_record_is_true(Normalize(2.0, scope=scope), parameters(BANK[name]()), 2.0, rtol)
    assert_record_is_detached_scalars(record)
    assert record.name == "Normalize"
    assert float(record.threshold) == 2


def test_a_value_worked_by_hand() -> None:
    long, short = parameters([torch.tensor([30.0, 40.0]), torch.tensor([0.03, 0.04])])
    record = Normalize(10.0, scope="tensor")([long, short])
    torch.testing.assert_close(long.grad, torch.tensor([6.0, 8.0]))
    torch.testing.assert_close(short.grad, torch.tensor([6.0, 8.0]), rtol=1e-4, atol=0)
    assert float(record.share_clipped) == 1
    assert float(record.norm_after) == pytest.approx(math.sqrt(200), rel=1e-4)


def test_layers_are_normalized_apart() -> None:
    named = layers()  # norms 5, 50 and 500
    record = Normalize(1.0, scope="layer")(named.items())
    for weight in ("embed.weight", "block.0.weight", "head.weight"):
        torch.testing.assert_close(named[weight].grad, torch.tensor([0.6]))
    assert record.scopes is not None
    assert record.scopes.names == ("embed", "block.0", "head")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_zero_gradient_stays_zero(dtype: torch.dtype) -> None:
    (zero,) = parameters([torch.zeros(3, dtype=dtype)])
    record = Normalize(1e3)([zero])
    assert_equal([zero.grad], [torch.zeros(3, dtype=dtype)])
    assert float(record.share_clipped) == 0


def test_sparse_gradients_are_coalesced_first() -> None:
    embedding = nn.Embedding(4, 1, sparse=True)
    embedding(torch.tensor([1, 1, 1, 3, 3, 3, 3])).sum().backward()  # 3 and 4
    Normalize(1.0)(embedding.parameters())
    assert embedding.weight.grad is not None
    expected = torch.tensor([[0.0], [0.6], [0.0], [0.8]])
    torch.testing.assert_close(embedding.weight.grad.to_dense(), expected)


def test_a_tied_weight_is_scaled_once() -> None:
    (tied,) = parameters([torch.tensor([3.0, 4.0])])
    Normalize(0.5)([tied, tied])
    torch.testing.assert_close(tied.grad, torch.tensor([0.3, 0.4]))


def test_nothing_to_scale_is_a_record_of_zeros() -> None:
    for empty in ([], [nn.Parameter(torch.ones(2))]):
        record = Normalize()(empty)
        assert float(record.norm_before) == float(record.norm_after) == 0
        assert float(record.share_clipped) == 0


def test_it_works_on_an_optimizer_and_in_a_chain() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    handle = Chain(Value(4.0), Normalize(1.0)).attach(optimizer)
    weight.grad = torch.tensor([3.0, 100.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.06, -0.08]))
    assert handle.record is not None
    assert [stage.name for stage in handle.record.stages] == ["Value", "Normalize"]


def test_it_does_not_wait_for_the_device() -> None:
    named = layers()
    with NoWaiting():
        Normalize(scope="layer")(named.items())
        Normalize()(named.items())


def test_it_is_scaled_keeps_no_state_and_survives_pickling() -> None:
    mode = Normalize(2.0, scope="tensor")
    assert mode.scaled(0.25) == Normalize(0.5, scope="tensor")
    assert pickle.loads(pickle.dumps(mode)) == mode


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_the_norm_must_be_positive_and_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="`norm` must be positive and finite, got"):
        Normalize(bad)


def test_an_unknown_scope_is_rejected() -> None:
    with pytest.raises(ValueError, match="`scope` must be"):
        Normalize(scope="row")  # type: ignore[arg-type]


def test_layers_need_names() -> None:
    values: list[Tensor | None] = [torch.ones(1)]
    clipped = parameters(values)
    with pytest.raises(ValueError, match="named_parameters"):
        Normalize(scope="layer")(clipped)
    assert_equal(gradients(clipped), values)
