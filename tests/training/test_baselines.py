"""Baselines that are typed anew, against the published rule and the library it comes from."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchjd import aggregation
from torchjd.autojac import backward, jac_to_grad

from fairclip.training import AggregatedStep, GroupDROStep, make_mlp
from tests.training._inputs import one_weight, row_products

Floats = NDArray[np.float64]

N_GROUPS, N_BATCHES = 4, 25


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each row."""
    return (outputs.squeeze(1) - targets).square()


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return small batches, so that groups are absent from some; a few rows are of none."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 12, N_BATCHES)
    return [
        (
            torch.from_numpy(rng.normal(size=(n, 3))),
            torch.from_numpy(rng.normal(size=n)),
            torch.from_numpy(rng.choice([-1, 0, 0, 0, 1, 1, 2, 3], n)),
        )
        for n in sizes
    ]


def group_dro_in_numpy(step_size: float, lr: float) -> list[tuple[Floats, Floats]]:
    """Return weights q and parameters after each step of Algorithm 1 on a linear model.

    For each group of the batch q_g <- q_g exp(eta * loss_g), then q <- q / sum(q), then the
    parameters <- parameters - lr * sum_g q_g grad(loss_g); the algorithm draws one group for a
    step, its authors' ``LossComputer.compute_robust_loss`` takes all groups of the batch, as here.
    """
    q, theta = np.full(N_GROUPS, 1 / N_GROUPS), np.zeros(3)
    found = []
    for inputs, targets, groups in batches():
        x, t, g = inputs.numpy(), targets.numpy(), groups.numpy()
        error = x @ theta - t
        losses, gradients = np.zeros(N_GROUPS), np.zeros((N_GROUPS, 3))
        for k in range(N_GROUPS):
            if (g == k).any():
                losses[k] = (error[g == k] ** 2).mean()
                gradients[k] = 2 * (error[g == k, None] * x[g == k]).mean(0)
        q = q * np.exp(step_size * losses)
        q = q / q.sum()
        theta = theta - lr * q @ gradients
        found.append((q, theta))
    return found


def test_group_dro_is_algorithm_1_over_many_steps() -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    step, optimizer = (
        GroupDROStep(N_GROUPS, step_size=0.1),
        torch.optim.SGD(model.parameters(), 0.1),
    )
    for batch, (q, theta) in zip(batches(), group_dro_in_numpy(0.1, 0.1), strict=True):
        optimizer.zero_grad()
        step(model, *batch, squares)
        optimizer.step()
        assert step.weights.numpy() == pytest.approx(q, rel=1e-9)
        assert model.weight.detach().numpy()[0] == pytest.approx(theta, rel=1e-9)
    assert np.ptp(q) > 0.1  # the weights went somewhere


AGGREGATORS: dict[str, Callable[[], aggregation.Aggregator]] = {
    "UPGrad": aggregation.UPGrad,
    "MGDA": aggregation.MGDA,
    "AlignedMTL": aggregation.AlignedMTL,
    "Mean": aggregation.Mean,
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregated_step_is_torchjd_on_the_losses_of_the_present_groups(name: str) -> None:
    ours, theirs = make_mlp(3, 1, (5,), seed=0).double(), make_mlp(3, 1, (5,), seed=0).double()
    step = AggregatedStep(N_GROUPS, AGGREGATORS[name]())
    n_present = set()
    for inputs, targets, groups in batches():
        ours.zero_grad()
        step(ours, inputs, targets, groups, squares)
        theirs.zero_grad()
        rows = squares(theirs(inputs), targets)
        losses = [rows[groups == k].mean() for k in range(N_GROUPS) if (groups == k).any()]
        backward(losses, inputs=theirs.parameters())
        jac_to_grad(theirs.parameters(), AGGREGATORS[name]())
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
        n_present.add(len(losses))
    assert len(n_present) > 1  # of batches with and without all groups


def test_upgrad_worked_by_hand() -> None:
    # The gradients (1, 0) and (-1, 2) conflict: their product is -1. Each is projected onto the
    # cone of directions that agree with both: (1, 0) to (1, 0) + 1/5 * (-1, 2) = (4/5, 2/5), and
    # (-1, 2) to (-1, 2) + 1 * (1, 0) = (0, 2). UPGrad is the mean, (2/5, 6/5).
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    inputs = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    AggregatedStep(2, aggregation.UPGrad())(model, inputs, ones, torch.tensor([0, 1]), row_products)
    assert model.weight.grad is not None
    assert model.weight.grad[0].tolist() == pytest.approx([0.4, 1.2], rel=1e-3)


def random_gradients(seed: int) -> list[Tensor]:
    """Return the gradients of an aggregator that draws at random."""
    model = make_mlp(3, 1, (5,), seed=0).double()
    step = AggregatedStep(N_GROUPS, aggregation.Random(), seed)
    found = []
    for inputs, targets, groups in batches()[:3]:
        step(model, inputs, targets, groups, squares)
        found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return found


def test_what_an_aggregator_draws_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = random_gradients(0)
    drawn = torch.rand(9)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(9), drawn)  # nobody else's numbers were used up
    again, other = random_gradients(0), random_gradients(1)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_a_batch_of_unknown_rows_alone_has_the_gradient_zero() -> None:
    model = one_weight()
    rows, nowhere = torch.ones(3, 1), torch.full((3,), -1)
    loss = AggregatedStep(2, aggregation.UPGrad())(model, rows, rows[:, 0], nowhere, row_products)
    assert model.weight.grad is not None
    assert float(model.weight.grad) == 0
    assert float(loss) == 1


def test_frozen_parameters_have_no_gradient() -> None:
    model = nn.Linear(1, 1, dtype=torch.float64)
    model.bias.requires_grad_(False)
    one = torch.ones(1, 1, dtype=torch.float64)
    AggregatedStep(1, aggregation.Sum())(model, one, one[0], torch.tensor([0]), row_products)
    assert model.bias.grad is None
    assert model.weight.grad is not None


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_are_positive(scale: float) -> None:
    scales = torch.tensor([1.0, scale])
    with pytest.raises(ValueError, match=r"`scales` must be finite, positive and \(2,\)"):
        AggregatedStep(2, torch.ravel, scales=scales)
    with pytest.raises(ValueError, match=r"`scales` must be .* \(3,\)"):
        AggregatedStep(3, torch.ravel, scales=torch.ones(2))


def test_scales_multiply_the_rows() -> None:
    model = one_weight()
    step = AggregatedStep(2, lambda jacobian: jacobian.sum(0), scales=torch.tensor([2.0, 0.5]))
    step(model, torch.tensor([[1.0], [3.0]]), torch.ones(2), torch.tensor([0, 1]), row_products)
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(2 * 1 + 0.5 * 3)


@pytest.mark.parametrize("n_groups", [0, -1])
def test_no_group_is_refused(n_groups: int) -> None:
    for make in (GroupDROStep, lambda n: AggregatedStep(n, torch.ravel)):
        with pytest.raises(ValueError, match="`n_groups` must be positive"):
            make(n_groups)
