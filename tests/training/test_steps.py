import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairclip import FairClipper, NormCap, clipping
from fairclip.training import FairStep, GroupDROStep, WeightedStep
from tests.training._inputs import one_weight, row_products

ONES = torch.ones(3)


def gradient(model: torch.nn.Linear) -> float:
    assert model.weight.grad is not None
    return float(model.weight.grad)


def test_weighted_step_worked_by_hand() -> None:
    model = one_weight()
    rows, groups = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, -1])
    loss = WeightedStep(torch.tensor([3.0, 0.5]))(model, rows, ONES, groups, row_products)
    assert gradient(model) == pytest.approx((3 * 1 + 0.5 * 2 + 1 * 4) / 3)
    assert loss == pytest.approx(7 / 3)
    assert not loss.requires_grad


def test_weighted_step_clips_the_weighted_gradient() -> None:
    model = one_weight()
    step = WeightedStep(torch.tensor([3.0]), clip=clipping.Norm(max_norm=2.0))
    step(model, torch.full((3, 1), 5.0), ONES, torch.zeros(3, dtype=torch.int64), row_products)
    assert gradient(model) == pytest.approx(2, rel=1e-6)


def test_group_dro_follows_the_published_rule() -> None:
    # Algorithm 1 with eta = log 2: q starts at (1/2, 1/2), the losses are 1 and (2 + 4) / 2 = 3,
    # q becomes (2 / 2, 8 / 2) / 5 = (1/5, 4/5), the gradient 1/5 * 1 + 4/5 * 3.
    model, step = one_weight(), GroupDROStep(2, step_size=math.log(2))
    rows = torch.tensor([[1.0], [2.0], [4.0]])
    loss = step(model, rows, ONES, torch.tensor([0, 1, 1]), row_products)
    assert step.weights.tolist() == pytest.approx([0.2, 0.8])
    assert gradient(model) == pytest.approx(2.6)
    assert loss == pytest.approx(7 / 3)
    # Without group 0: q = (1/5, 8 * 4/5) / 6.6, and only group 1 has a gradient.
    model.weight.grad = None
    step(model, rows[1:], ONES[1:], torch.tensor([1, 1]), row_products)
    assert step.weights.tolist() == pytest.approx([0.2 / 6.6, 6.4 / 6.6])
    assert gradient(model) == pytest.approx(3 * 6.4 / 6.6)


def test_group_dro_leaves_unknown_rows_out() -> None:
    known, all_rows = one_weight(), one_weight()
    rows, groups = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, -1])
    GroupDROStep(2)(known, rows[:2], ONES[:2], groups[:2], row_products)
    GroupDROStep(2)(all_rows, rows, ONES, groups, row_products)
    assert gradient(known) == gradient(all_rows)


def test_group_dro_survives_huge_losses() -> None:
    model, step = one_weight(), GroupDROStep(2, step_size=1.0)
    rows = torch.tensor([[1e6], [1.0], [1.0]])
    step(model, rows, ONES, torch.tensor([0, 1, 1]), row_products)
    assert step.weights.tolist() == [1, 0]
    assert gradient(model) == 1e6


def test_fair_step_without_a_bound_is_the_mean() -> None:
    model = one_weight()
    clipper = FairClipper(model, cap=NormCap(max_ratio=math.inf), n_groups=2)
    rows, groups = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 1])
    loss = FairStep(clipper)(model, rows, ONES, groups, row_products)
    assert gradient(model) == pytest.approx(7 / 3)
    assert loss.item() == pytest.approx(7 / 3)
    assert len(clipper.trace) == 1


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(st.floats(-3, 3), st.integers(-1, 2)), min_size=1, max_size=9),
    weights=st.tuples(*[st.floats(0, 5)] * 3),
)
def test_weighted_step_is_the_gradient_of_the_weighted_mean(
    rows: list[tuple[float, int]], weights: tuple[float, ...]
) -> None:
    model = one_weight()
    inputs = torch.tensor([[value] for value, _ in rows])
    groups = torch.tensor([group for _, group in rows])
    step = WeightedStep(torch.tensor(weights))
    step(model, inputs, torch.ones(len(rows)), groups, row_products)
    products = [(1.0 if group < 0 else weights[group]) * value for value, group in rows]
    assert gradient(model) == pytest.approx(sum(products) / len(rows), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("step", [WeightedStep(torch.ones(2)), GroupDROStep(2)])
def test_a_step_needs_one_loss_per_row(step: WeightedStep | GroupDROStep) -> None:
    rows, groups = torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"one loss per row, shape \(3,\), got \(3, 1\)"):
        step(one_weight(), rows, rows, groups, lambda outputs, targets: outputs - targets)


@pytest.mark.parametrize(
    "weights",
    [torch.tensor([1.0, -1.0]), torch.tensor([math.nan]), torch.tensor([math.inf]), torch.eye(2)],
)
def test_weighted_step_rejects(weights: Tensor) -> None:
    with pytest.raises(ValueError, match="`weights` must be"):
        WeightedStep(weights)


@pytest.mark.parametrize(
    ("n_groups", "step_size", "message"),
    [(0, 0.1, "`n_groups`"), (2, 0, "`step_size`"), (2, math.nan, "`step_size`")],
)
def test_group_dro_rejects(n_groups: int, step_size: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupDROStep(n_groups, step_size)
