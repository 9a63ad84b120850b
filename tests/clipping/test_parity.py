"""The modes beside those of other libraries, on random gradients and on hard ones."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from fairclip.clipping import Mode, Norm, Value
from tests.clipping._hard_inputs import HARD, Make, named
from tests.clipping._inputs import parameters
from tests.clipping._properties import assert_equal, gradients

jax.config.update("jax_platforms", "cpu")

Array = NDArray[np.float64]
TINY = float(np.finfo(np.float64).tiny)  # XLA takes what is smaller for 0
NORM_TYPES = (0.5, 1.0, 2.0, 3.0, math.inf)
HALF = (torch.float16, torch.bfloat16)

hard = pytest.mark.parametrize("make", HARD.values(), ids=HARD.keys())
limits = pytest.mark.parametrize("limit", [1e-7, 0.3, 1.0, 1e9])
vectors = st.lists(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5).map(
        lambda values: torch.tensor(values, dtype=torch.float64)
    ),
    min_size=1,
    max_size=4,
)
on_random_vectors = settings(derandomize=True, deadline=None, max_examples=50)
thresholds = st.floats(1e-3, 1e3)


def clipped(mode: Mode, values: Sequence[Tensor | None]) -> list[Array]:
    """Return what a mode makes of these gradients, in float64."""
    made = named(values)
    mode(made.items())
    return [p.grad.double().numpy() for p in made.values() if p.grad is not None]


def arrays(values: Sequence[Tensor | None]) -> list[Array]:
    return [value.double().numpy() for value in values if value is not None]


def l2(values: Sequence[Array]) -> float:
    """Return the norm of all as one vector."""
    return math.sqrt(math.fsum(float(np.square(value).sum()) for value in values))


def assert_close(
    actual: Sequence[Array], expected: Sequence[Array], norms: Sequence[float]
) -> None:
    """The two agree up to the 10^-6 that torch, and so `Norm`, adds to each norm.

    Where the factor is c / (N + 10^-6) and not c / N, the share that is missing is less than
    10^-6 / N; where N is just below c the gradient shrinks, though it need not, by no more.
    """
    for a, e, norm in zip(actual, expected, norms, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12 + 1e-6 / norm if norm else 0, atol=TINY)


# ------------------------------------------------------------------ torch


@hard
@pytest.mark.parametrize("limit", [1e-7, 0.3, 1.0, 6e4])
def test_value_equals_torch_bit_for_bit(make: Make, limit: float) -> None:
    ours, theirs = parameters(make()), parameters(make())
    Value(limit)(ours)
    clip_grad_value_(theirs, limit)
    assert_equal(gradients(ours), gradients(theirs))


def test_a_limit_beyond_float16_changes_nothing_where_torch_raises() -> None:
    values = [torch.tensor([3.0, -6e4], dtype=torch.float16)]
    ours, theirs = parameters(values), parameters(values)
    assert float(Value(1e9)(ours).norm_after) == pytest.approx(6e4, rel=1e-3)
    assert_equal(gradients(ours), values)
    with pytest.raises(RuntimeError, match="overflow"):
        clip_grad_value_(theirs, 1e9)


# torch measures half precision in half precision, and has no largest component of nothing.
EXACT = {
    name: make
    for name, make in HARD.items()
    if all(v is None or (v.dtype not in HALF and v.numel()) for v in make())
}


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT.keys())
@limits
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_norm_equals_torch_bit_for_bit(make: Make, limit: float, norm_type: float) -> None:
    ours, theirs = parameters(make()), parameters(make())
    record = Norm(limit, norm_type)(ours)
    total = clip_grad_norm_(theirs, limit, norm_type)
    assert_equal(gradients(ours), gradients(theirs))
    assert torch.equal(record.norm_before, total)


@on_random_vectors
@given(values=vectors, limit=thresholds, norm_type=st.sampled_from(NORM_TYPES))
def test_norm_and_value_equal_torch_on_random_gradients(
    values: list[Tensor], limit: float, norm_type: float
) -> None:
    for mode, clip in (
        (Norm(limit, norm_type), lambda p: clip_grad_norm_(p, limit, norm_type)),
        (Value(limit), lambda p: clip_grad_value_(p, limit)),
    ):
        ours, theirs = parameters(values), parameters(values)
        mode(ours)
        clip(theirs)
        assert_equal(gradients(ours), gradients(theirs))


# ------------------------------------------------------------------ optax


def by_optax(transform: Any, values: Sequence[Tensor | None], dtype: Any = None) -> list[Array]:
    """Return what optax makes of these gradients, computed in float64 without a `dtype`."""
    with jax.enable_x64(True):
        updates = [jnp.asarray(value, dtype=dtype) for value in arrays(values)]
        done, _ = transform.update(updates, transform.init(updates))
        return [np.asarray(value, dtype=np.float64) for value in done]


def assert_value_equals_optax(values: Sequence[Tensor | None], limit: float) -> None:
    exact = [None if v is None else v.double() for v in values]
    theirs = by_optax(optax.clip(limit), exact)
    for a, e in zip(clipped(Value(limit), exact), theirs, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=TINY)


def assert_norm_equals_optax(values: Sequence[Tensor | None], limit: float) -> None:
    exact = [None if v is None else v.double() for v in values]
    norms = [l2(arrays(exact))] * len(arrays(exact))
    theirs = by_optax(optax.clip_by_global_norm(limit), exact)
    assert_close(clipped(Norm(limit), exact), theirs, norms)


def block_rms(values: Sequence[Tensor | None], threshold: float) -> Norm:
    """Return the mode that is optax's `clip_by_block_rms`: rms = norm / sqrt(size)."""
    own = {
        name: threshold * math.sqrt(p.grad.numel())
        for name, p in named(values).items()
        if p.grad is not None
    }
    return Norm(math.inf, scope="tensor", overrides=own)


def assert_block_rms_equals_optax(values: Sequence[Tensor | None], limit: float) -> None:
    exact = [None if v is None else v.double() for v in values if v is None or v.numel()]
    norms = [l2([value]) for value in arrays(exact)]
    theirs = by_optax(optax.clip_by_block_rms(limit), exact)
    assert_close(clipped(block_rms(exact, limit), exact), theirs, norms)


optax_modes = pytest.mark.parametrize(
    "assert_equals_optax",
    [assert_value_equals_optax, assert_norm_equals_optax, assert_block_rms_equals_optax],
)


@optax_modes
@hard
@limits
def test_equals_optax(assert_equals_optax: Any, make: Make, limit: float) -> None:
    assert_equals_optax(make(), limit)


@optax_modes
@on_random_vectors
@given(values=vectors, limit=thresholds)
def test_equals_optax_on_random_gradients(
    assert_equals_optax: Any, values: list[Tensor], limit: float
) -> None:
    assert_equals_optax(values, limit)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_nonfinite_gradients_become_what_optax_makes_of_them(bad: float) -> None:
    values = [torch.tensor([1.0, bad, 3.0]), torch.tensor([2.0])]
    for mode, transform in (
        (Value(0.5), optax.clip(0.5)),
        (Norm(0.5), optax.clip_by_global_norm(0.5)),
        (block_rms(values, 0.5), optax.clip_by_block_rms(0.5)),
    ):
        for a, e in zip(clipped(mode, values), by_optax(transform, values), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5)


def test_block_rms_of_half_precision_is_not_what_optax_has() -> None:
    """optax squares in the gradient's own dtype: the square of 300 is inf in float16."""
    values = [torch.full((4,), 300.0, dtype=torch.float16)]
    (theirs,) = by_optax(optax.clip_by_block_rms(1.0), values, jnp.float16)
    assert theirs.tolist() == [0.0] * 4
    (ours,) = clipped(block_rms(values, 1.0), values)
    assert ours.tolist() == [1.0] * 4


def test_jax_computes_in_its_own_precision_again_outside_of_these_tests() -> None:
    assert jnp.ones(1).dtype == jnp.float32
    assert {device.platform for device in jax.devices()} == {"cpu"}


# ------------------------------------------------------------------ TensorFlow and Keras
#
# Their formulas as published: https://www.tensorflow.org/api_docs/python/tf/clip_by_value,
# .../clip_by_norm and .../clip_by_global_norm. The optimizers of Keras (https://keras.io/api/
# optimizers) apply one of them: `clipvalue` the first, `clipnorm` the second to the gradient of
# each weight, `global_clipnorm` the third to all gradients together.


def clip_by_value(values: Sequence[Array], low: float, high: float) -> list[Array]:
    return [np.minimum(np.maximum(value, low), high) for value in values]


def clip_by_norm(value: Array, clip_norm: float) -> Array:
    return value * clip_norm / max(l2([value]), clip_norm)


def clip_by_global_norm(values: Sequence[Array], clip_norm: float) -> list[Array]:
    global_norm = l2(values)
    return [value * clip_norm / max(global_norm, clip_norm) for value in values]


def assert_equals_tensorflow(values: Sequence[Tensor | None], limit: float) -> None:
    exact = [None if v is None else v.double() for v in values]
    theirs = arrays(exact)
    for a, e in zip(
        clipped(Value(limit), exact), clip_by_value(theirs, -limit, limit), strict=True
    ):
        np.testing.assert_array_equal(a, e)
    each = [clip_by_norm(value, limit) for value in theirs]
    norms = [l2([value]) for value in theirs]
    assert_close(clipped(Norm(limit, scope="tensor"), exact), each, norms)
    together = [l2(theirs)] * len(theirs)
    assert_close(clipped(Norm(limit), exact), clip_by_global_norm(theirs, limit), together)


@hard
@limits
def test_equals_the_formulas_of_tensorflow_and_keras(make: Make, limit: float) -> None:
    assert_equals_tensorflow(make(), limit)


@on_random_vectors
@given(values=vectors, limit=thresholds)
def test_equals_the_formulas_of_tensorflow_and_keras_on_random_gradients(
    values: list[Tensor], limit: float
) -> None:
    assert_equals_tensorflow(values, limit)


def test_an_infinite_norm_is_where_tensorflow_differs() -> None:
    """It makes all components NaN; torch, optax and `Norm` make the finite ones 0."""
    first, second = clipped(Norm(1.0), [torch.tensor([1.0, math.inf]), torch.tensor([2.0])])
    assert first[0] == second[0] == 0
    assert math.isnan(first[1])
