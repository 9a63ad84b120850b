import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient
from torch import Tensor, nn

from fairclip.clipping import Centralize
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import BANK, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_record_is_detached_scalars,
    assert_record_is_true,
    gradients,
)

SHAPES = ((4, 3), (7,), (), (5, 2), (2, 3, 2, 2), (3, 2, 5), (4, 3), (70, 1000), (2, 70_000))

bank = pytest.mark.parametrize("name", BANK)


def shifted(shapes: Any, scale: float, mean: float, dtype: torch.dtype) -> list[Tensor]:
    """Return parameters with gradients that are normal with this deviation around a mean."""
    random = torch.Generator().manual_seed(0)
    return parameters([(mean + scale * torch.randn(s, generator=random)).to(dtype) for s in shapes])


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_pytorch_optimizer(scale: float, mean: float, dtype: torch.dtype) -> None:
    ours = shifted(SHAPES, scale, mean, dtype)
    theirs = copy.deepcopy(ours)
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        b.grad = a.grad.clone()
        centralize_gradient(b.grad)
    Centralize()(ours)
    atol = 10 * torch.finfo(dtype).eps * max(scale, mean)  # what rounding leaves of a mean
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=atol)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=6),
    transposed=st.booleans(),
)
def test_equals_a_loop_over_units(shapes: list[list[int]], transposed: bool) -> None:
    ours = shifted(shapes, 1.0, 0.5, torch.float32)
    for p in ours:
        if transposed and p.grad is not None and p.ndim > 1:
            p.grad = p.grad.mT.contiguous().mT
    expected = gradients(ours)
    for gradient in expected:
        if gradient is not None and gradient.ndim > 1 and gradient.numel():
            for unit in gradient:
                unit -= unit.double().mean()
    Centralize()(ours)
    for p, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted, rtol=0, atol=1e-6)


@bank
def test_the_record_is_true(name: str) -> None:
    centralized = parameters(BANK[name]())
    old = gradients(centralized)
    record = assert_record_is_true(Centralize(), centralized, 2.0)
    assert_record_is_detached_scalars(record)
    assert math.isnan(record.threshold)
    assert int(record.first_nonfinite) == -1  # type: ignore[arg-type]
    flat = [
        torch.cat([g.double().flatten() for g in many if g is not None])
        for many in (old, gradients(centralized))
    ]
    assert record.cosine is not None
    if flat[0].any():
        cosine = torch.cosine_similarity(flat[0], flat[1], 0)
        assert float(record.cosine) == pytest.approx(float(cosine), abs=1e-3)
    else:
        assert math.isnan(record.cosine)
    matrices = [(a, b) for a, b in zip(old, gradients(centralized), strict=True) if a is not None]
    changed = [not torch.equal(a, b) for a, b in matrices if b is not None and a.ndim > 1]
    assert float(record.share_clipped) == pytest.approx(sum(changed) / max(len(changed), 1))


def test_the_norm_is_right_where_almost_nothing_is_left() -> None:
    """The difference of the squares before and after would be rounding noise."""
    weight = nn.Parameter(torch.zeros(64, 32))
    weight.grad = 1000 + 1e-3 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    record = Centralize()([weight])
    expected = float(torch.linalg.vector_norm(weight.grad.double()))
    assert float(record.norm_after) == pytest.approx(expected, rel=1e-5)
    assert expected < 0.1


@bank
def test_a_second_time_changes_next_to_nothing(name: str) -> None:
    centralized = parameters(BANK[name]())
    Centralize()(centralized)
    once = gradients(centralized)
    Centralize()(centralized)
    for a, b in zip(gradients(centralized), once, strict=True):
        if a is not None and b is not None and b.numel():
            eps = torch.finfo(b.dtype).eps
            torch.testing.assert_close(a, b, rtol=0, atol=4 * eps * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 10_000), (40, 300)])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    halves = shifted([shape, shape], 300.0, 1000.0, dtype)  # the sums are beyond float16
    expected = [
        g.float() - g.double().flatten(1).mean(1).float().view(-1, *[1] * (g.ndim - 1))
        for g in gradients(halves)
        if g is not None
    ]
    Centralize()(halves)
    for p, wanted in zip(halves, expected, strict=True):
        torch.testing.assert_close(p.grad, wanted.to(dtype))


def test_a_value_worked_by_hand() -> None:
    weight, even, bias = parameters(
        [
            torch.tensor([[1.0, 5.0], [-1.0, 1.0]]),
            torch.tensor([[2.0, -2.0]]),
            torch.tensor([3.0, 4.0]),
        ]
    )
    record = Centralize()([weight, even, bias])
    assert_equal([weight.grad], [torch.tensor([[-2.0, 2.0], [-1.0, 1.0]])])
    assert_equal([even.grad, bias.grad], [torch.tensor([[2.0, -2.0]]), torch.tensor([3.0, 4.0])])
    before, after = 28 + 8 + 25, 10 + 8 + 25
    assert float(record.norm_before) == pytest.approx(math.sqrt(before))
    assert float(record.norm_after) == pytest.approx(math.sqrt(after))
    assert float(record.cosine) == pytest.approx(math.sqrt(after / before))  # type: ignore[arg-type]
    assert float(record.share_clipped) == 0.5  # of the two matrices


def test_a_fan_in_of_one_leaves_nothing() -> None:
    (column,) = parameters([torch.tensor([[1.0], [-2.0]])])
    assert float(Centralize()([column]).norm_after) == 0
    assert_equal([column.grad], [torch.zeros(2, 1)])


def test_what_is_not_finite_stays_in_its_unit() -> None:
    fine, bad = parameters(
        [torch.ones(2), torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [1.0, 3.0]])]
    )
    record = Centralize()([fine, bad])
    assert bad.grad is not None
    expected = torch.tensor([[math.nan, -math.inf], [math.nan, math.nan]])
    torch.testing.assert_close(bad.grad[:2], expected, equal_nan=True)
    assert_equal([bad.grad[2]], [torch.tensor([-1.0, 1.0])])
    assert math.isnan(record.norm_after)
    assert int(record.first_nonfinite) == 1  # type: ignore[arg-type]


def test_a_tied_weight_is_centralized_once() -> None:
    tied = parameters([torch.tensor([[1.0, 5.0]])])[0]
    record = Centralize()([tied, tied])
    assert float(record.norm_before) == pytest.approx(math.sqrt(26))


def test_nothing_to_centralize_is_a_record_of_zeros() -> None:
    for empty in ([], [nn.Parameter(torch.ones(2, 2))]):
        record = Centralize()(empty)
        assert float(record.norm_before) == float(record.share_clipped) == 0


def test_sparse_gradients_are_named() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r"Centralize needs dense gradients, .* 'weight' is sparse"):
        Centralize()(embedding.named_parameters())


def test_no_step_waits_for_the_device() -> None:
    named = shifted(SHAPES, 1.0, 1.0, torch.float32)
    with NoWaiting():
        Centralize()(named)


def test_it_has_no_threshold_and_survives_pickling() -> None:
    with pytest.raises(TypeError, match="Centralize has no threshold to schedule"):
        Centralize().scaled(0.5)
    assert pickle.loads(pickle.dumps(Centralize())) == Centralize()
