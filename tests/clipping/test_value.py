import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_

from fairclip.clipping import Value
from tests.clipping._inputs import BANK, EXACT, parameters
from tests.clipping._properties import (
    assert_equal,
    assert_norm_never_grows,
    assert_record_is_detached_scalars,
    assert_record_is_true,
    assert_twice_is_once,
    gradients,
)

bank = pytest.mark.parametrize("name", BANK)


@bank
@pytest.mark.parametrize("max_value", [1e-7, 0.5, 6e4])
def test_equals_torch_bit_for_bit(name: str, max_value: float) -> None:
    ours, theirs = parameters(BANK[name]()), parameters(BANK[name]())
    Value(max_value)(ours)
    clip_grad_value_(theirs, max_value)
    assert_equal(gradients(ours), gradients(theirs))


@bank
def test_the_record_is_true(name: str) -> None:
    clipped = parameters(BANK[name]())
    old = gradients(clipped)
    record = assert_record_is_true(Value(0.5), clipped, norm_type=2.0)
    assert_record_is_detached_scalars(record)
    changed = sum(
        int((a != b).sum())
        for a, b in zip(old, gradients(clipped), strict=True)
        if a is not None and b is not None
    )
    total = sum(g.numel() for g in old if g is not None)
    assert float(record.share_clipped) == pytest.approx(changed / total)


@bank
def test_no_component_grows(name: str) -> None:
    assert_norm_never_grows(Value(0.5), parameters(BANK[name]()))


@pytest.mark.parametrize("name", EXACT)
def test_clamping_twice_is_clamping_once(name: str) -> None:
    assert_twice_is_once(Value(0.5), parameters(BANK[name]()), rtol=0)


def test_a_value_worked_by_hand() -> None:
    clipped = parameters([torch.tensor([-3.0, 1.0]), torch.tensor([0.0, 4.0])])
    record = Value(2.0)(clipped)
    assert_equal(gradients(clipped), [torch.tensor([-2.0, 1.0]), torch.tensor([0.0, 2.0])])
    assert float(record.norm_before) == pytest.approx(math.sqrt(26))
    assert float(record.norm_after) == pytest.approx(3)
    assert float(record.share_clipped) == 0.5
    assert float(record.threshold) == 2


def test_inf_becomes_the_limit_and_nan_stays() -> None:
    values: list[Tensor | None] = [torch.tensor([math.inf, -math.inf, math.nan, 1.0])]
    ours, theirs = parameters(values), parameters(values)
    record = Value(2.0)(ours)
    clip_grad_value_(theirs, 2.0)
    torch.testing.assert_close(ours[0].grad, theirs[0].grad, equal_nan=True)
    assert float(record.share_clipped) == 0.5


def test_sparse_gradients_are_coalesced_first() -> None:
    embedding = nn.Embedding(4, 1, sparse=True)
    embedding(torch.tensor([1, 1, 1, 3])).sum().backward()
    record = Value(2.0)(embedding.parameters())
    assert embedding.weight.grad is not None
    expected = torch.tensor([[0.0], [2.0], [0.0], [1.0]])
    torch.testing.assert_close(embedding.weight.grad.to_dense(), expected)
    assert float(record.share_clipped) == 0.5


def test_nothing_to_clip_is_a_record_of_zeros() -> None:
    record = Value(1.0)([])
    assert float(record.norm_before) == float(record.share_clipped) == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_the_limit_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`max_value` must be positive, got"):
        Value(bad)
