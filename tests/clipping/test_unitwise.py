import math
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer.optimizer.agc import agc
from torch import Tensor, nn

from fairclip.clipping import Unitwise
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import BANK, EXACT, layers, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_norm_never_grows,
    assert_record_is_detached_scalars,
    assert_record_is_true,
    assert_twice_is_once,
    gradients,
    norm_of,
)

SHAPES = ((4, 3), (7,), (), (5, 2), (2, 3, 2, 2), (3, 2, 3, 1, 2), (4, 3), (70, 1000), (2, 70_000))
SCALES = (0.0, 1e-6, 1e-2, 1.0, 1e6)

bank = pytest.mark.parametrize("name", BANK)


def weighted(shapes: Any, weight: float, gradient: float, seed: int = 0) -> list[Tensor]:
    """Return parameters of these shapes, normal with these deviations."""
    random = torch.Generator().manual_seed(seed)
    made: list[Tensor] = []
    for shape in shapes:
        parameter = nn.Parameter(weight * torch.randn(shape, generator=random))
        parameter.grad = gradient * torch.randn(shape, generator=random)
        made.append(parameter)
    return made


# ------------------------------------------------------------------ oracles


@pytest.mark.parametrize("weight", SCALES)
@pytest.mark.parametrize("gradient", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_pytorch_optimizer(weight: float, gradient: float, dtype: torch.dtype) -> None:
    ours = [p.detach().to(dtype) for p in weighted(SHAPES, weight, gradient)]
    for parameter, source in zip(ours, weighted(SHAPES, weight, gradient), strict=True):
        assert source.grad is not None
        parameter.grad = source.grad.to(dtype)
    expected = [agc(p, p.grad.clone()) for p in ours if p.grad is not None]
    Unitwise(clip_factor=0.01)(ours)
    for p, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted, rtol=1e-5, atol=0)


def _outputs_last(tensor: Tensor) -> Any:
    order = [*range(2, tensor.ndim), 1, 0] if tensor.ndim > 1 else [*range(tensor.ndim)]
    return jnp.asarray(tensor.detach().permute(order).numpy())


@pytest.mark.parametrize("weight", SCALES)
@pytest.mark.parametrize("gradient", SCALES)
def test_equals_optax(weight: float, gradient: float) -> None:
    shapes = [shape for shape in SHAPES if shape != (2, 70_000)]
    ours = weighted(shapes, weight, gradient)
    transform = optax.adaptive_grad_clip(0.03, eps=0.01)
    params = [_outputs_last(p) for p in ours]
    updates: Any = [_outputs_last(p.grad) for p in ours if p.grad is not None]
    expected, _ = transform.update(updates, transform.init(params), params)
    Unitwise(clip_factor=0.03, eps=0.01)(ours)
    for p, wanted in zip(ours, expected, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(_outputs_last(p.grad), wanted, rtol=1e-5)


def test_a_row_or_column_alone_has_the_units_of_any_matrix() -> None:
    """optax takes the column for a vector."""
    row, column = weighted([(1, 3), (3, 1)], 1.0, 100.0)
    expected = [agc(p, p.grad.clone()) for p in (row, column) if p.grad is not None]
    Unitwise()([row, column])
    for p, wanted in zip((row, column), expected, strict=True):
        torch.testing.assert_close(p.grad, wanted)


def test_a_kernel_of_one_dimension_has_one_unit_a_channel() -> None:
    """pytorch_optimizer takes every place of the kernel for a unit."""
    (kernel,) = weighted([(4, 3, 5)], 1.0, 100.0)
    flat = nn.Parameter(kernel.detach().flatten(1))
    assert kernel.grad is not None
    flat.grad = kernel.grad.flatten(1).clone()
    Unitwise()([kernel])
    Unitwise()([flat])
    assert flat.grad is not None
    torch.testing.assert_close(kernel.grad.flatten(1), flat.grad)


def by_unit(weight: Tensor, gradient: Tensor, clip_factor: float) -> Tensor:
    """Return the clipped gradient, unit by unit, in float64."""
    w, g = weight.detach().double(), gradient.double()
    units = zip(w, g, strict=True) if w.ndim > 1 else [(w, g)]
    clipped = [
        g * min(1.0, clip_factor * max(float(w.norm()), 1e-3) / max(float(g.norm()), 1e-300))
        for w, g in units
    ]
    return torch.stack(clipped).reshape(gradient.shape) if clipped else g


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=6),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_a_loop_over_units(shapes: list[list[int]], transposed: bool, seed: int) -> None:
    ours = weighted(shapes, 1.0, 0.1, seed)
    for p in ours:
        if transposed and p.grad is not None and p.ndim > 1:
            p.grad = p.grad.mT.contiguous().mT
    expected = [by_unit(p, p.grad, 0.1) for p in ours if p.grad is not None]
    n_units = sum(len(p) if p.ndim > 1 else 1 for p in ours if p.numel())
    n_clipped = sum(
        int((g.double() != e).reshape(len(g) if g.ndim > 1 else 1, -1).any(1).sum())
        for g, e in zip((p.grad for p in ours), expected, strict=True)
        if g is not None and g.numel()
    )
    record = Unitwise(clip_factor=0.1)(ours)
    for p, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted.float())
    assert float(record.share_clipped) == pytest.approx(n_clipped / max(n_units, 1))


# ------------------------------------------------------------------ properties


@bank
def test_the_record_is_true(name: str) -> None:
    clipped = parameters(BANK[name]())
    old = gradients(clipped)
    record = assert_record_is_true(Unitwise(), clipped, 2.0, 2e-2 if "float16" in name else 1e-5)
    assert_record_is_detached_scalars(record)
    assert record.name == "Unitwise"
    assert math.isnan(record.threshold)
    assert int(record.first_nonfinite) == -1  # type: ignore[arg-type]
    flat = [
        torch.cat([g.double().flatten() for g in many if g is not None])
        for many in (old, gradients(clipped))
    ]
    cosine = torch.cosine_similarity(flat[0], flat[1], 0)
    if cosine != 0:
        assert record.cosine is not None
        assert float(record.cosine) == pytest.approx(float(cosine), rel=1e-3)


@bank
def test_no_component_grows(name: str) -> None:
    assert_norm_never_grows(Unitwise(), parameters(BANK[name]()))


@pytest.mark.parametrize("name", EXACT)
def test_clipping_twice_is_clipping_once(name: str) -> None:
    assert_twice_is_once(Unitwise(), parameters(BANK[name]()), rtol=1e-6)


def test_units_below_the_limit_stay_as_they_are_bit_for_bit() -> None:
    ours = weighted(SHAPES, 1.0, 1e-4)
    old = gradients(ours)
    record = Unitwise(clip_factor=0.05)(ours)
    assert float(record.share_clipped) == 0
    assert_equal(gradients(ours), old)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 10_000), (40, 300)])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    pair = weighted([shape, shape], 1.0, 1e3)
    halves = [nn.Parameter(p.detach().to(dtype)) for p in pair]
    for half, p in zip(halves, pair, strict=True):
        assert p.grad is not None
        half.grad = p.grad.to(dtype)
    expected = [by_unit(p, p.grad, 0.01) for p in halves if p.grad is not None]
    record = Unitwise()(halves)
    assert float(record.norm_before) == pytest.approx(
        1e3 * math.sqrt(2 * math.prod(shape)), rel=0.1
    )
    for p, wanted in zip(halves, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted.to(dtype))


def test_a_value_worked_by_hand() -> None:
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), nn.Parameter(torch.ones(4))
    weight.grad, bias.grad = torch.tensor([[6.0, 8.0], [0.03, 0.04]]), torch.full((4,), 0.05)
    record = Unitwise(clip_factor=0.1, eps=0.01)([weight, bias])
    # Limits 0.1 * 5, 0.1 * 0.01 and 0.1 * 2 for norms of 10, 0.05 and 0.1.
    torch.testing.assert_close(weight.grad, torch.tensor([[0.3, 0.4], [0.0006, 0.0008]]))
    assert_equal([bias.grad], [torch.full((4,), 0.05)])
    assert float(record.share_clipped) == pytest.approx(2 / 3)
    assert float(record.norm_before) == pytest.approx(math.sqrt(10**2 + 0.05**2 + 0.1**2))
    assert float(record.norm_after) == pytest.approx(math.sqrt(0.5**2 + 0.001**2 + 0.1**2))


def test_excluded_layers_are_measured_and_left_alone() -> None:
    named = layers()  # norms 5, 50 and 500
    record = Unitwise(exclude=("head.*", "*.bias"))(named.items())
    assert named["head.weight"].grad == torch.tensor([300.0])
    assert named["embed.bias"].grad == torch.tensor([4.0])
    torch.testing.assert_close(named["embed.weight"].grad, torch.tensor([1e-5]))
    assert float(record.share_clipped) == 1
    assert float(record.norm_before) == pytest.approx(math.sqrt(5**2 + 50**2 + 500**2))
    assert float(record.norm_after) == pytest.approx(math.sqrt(4**2 + 40**2 + 500**2))


# ------------------------------------------------------------------ edges


def test_an_inf_empties_its_unit_and_a_nan_stays() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [3.0, 4.0]])
    record = Unitwise(clip_factor=0.1)([nn.Parameter(torch.ones(2)), weight])
    limit = 0.1 * math.sqrt(2)
    expected = torch.tensor([[math.nan, 0.0], [math.nan, 1.0], [0.6 * limit, 0.8 * limit]])
    torch.testing.assert_close(weight.grad, expected, equal_nan=True)
    assert int(record.first_nonfinite) == 0  # type: ignore[arg-type]
    assert record.parameters == ("0",)


def test_an_infinite_factor_changes_nothing() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, math.inf])
    assert float(Unitwise(clip_factor=math.inf)([weight]).share_clipped) == 0
    assert_equal([weight.grad], [torch.tensor([1.0, math.inf])])


def test_a_tied_weight_is_clipped_once() -> None:
    tied, single = weighted([(3, 2), (3, 2)], 1.0, 1.0)
    single.data.copy_(tied.detach())
    single.grad = None if tied.grad is None else tied.grad.clone()
    record = Unitwise()([tied, tied])
    assert_equal([record.norm_before], [Unitwise()([single]).norm_before])
    assert_equal([tied.grad], [single.grad])


def test_nothing_to_clip_is_a_record_of_zeros() -> None:
    for empty in ([], [nn.Parameter(torch.ones(2))]):
        record = Unitwise()(empty)
        assert float(record.norm_before) == float(record.share_clipped) == 0


def test_sparse_gradients_are_named() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r"Unitwise needs dense gradients, .* 'weight' is sparse"):
        Unitwise()(embedding.named_parameters())


def test_no_step_waits_for_the_device() -> None:
    named = {str(i): p for i, p in enumerate(weighted(SHAPES, 1.0, 1.0))}
    with NoWaiting():
        Unitwise(exclude=("3",))(named.items())


def test_scaled_and_pickled() -> None:
    mode = Unitwise(clip_factor=0.1, exclude=("head.*",))
    assert mode.scaled(0.5) == Unitwise(clip_factor=0.05, exclude=("head.*",))
    assert pickle.loads(pickle.dumps(mode)) == mode


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_settings_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`clip_factor` must be positive, got"):
        Unitwise(bad)
    with pytest.raises(ValueError, match=r"`eps` must be positive, got"):
        Unitwise(eps=bad)


def test_patterns_need_names_and_must_fit_before_anything_changes() -> None:
    named = layers()
    with pytest.raises(ValueError, match="named_parameters"):
        Unitwise(exclude=("head.*",))(named.values())
    with pytest.raises(ValueError, match=r"'haed\.\*' in `exclude` applies to no parameter"):
        Unitwise(exclude=("haed.*",))(named.items())
    with pytest.raises(TypeError, match="sequence of patterns, got 'head"):
        Unitwise(exclude="head.*")
    assert float(named["embed.weight"].grad) == 3  # type: ignore[arg-type]


def test_a_pattern_may_fit_a_parameter_without_a_gradient() -> None:
    named = layers()
    named["head.weight"].grad = named["head.bias"].grad = None
    Unitwise(exclude=("head.*",))(named.items())
    assert norm_of([named["embed.weight"]]) == pytest.approx(1e-5)
