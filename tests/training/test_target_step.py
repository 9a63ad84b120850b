"""One step with a TargetCap by hand, and a training on real data. Shapes: N rows, K groups."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairclip import FairClipper, GroupBatchSampler, GroupEncoder, NormCap, TargetCap
from fairclip.datasets import load_german
from fairclip.training import TargetStep, infer, make_mlp, train
from tests.training._inputs import one_weight, row_products


def positive(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1) >= 0


def chances(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1).sigmoid()


def test_worked_by_hand() -> None:
    model = one_weight()
    cap = TargetCap("worst_cell", gap=0.0, rate=1.0, smoothing=0.0, floor=0.0)
    clipper = FairClipper(model, cap, group_counts=[200, 100])
    rows, groups = torch.tensor([[1.0], [3.0], [-2.0], [5.0]]), torch.tensor([0, 0, 1, -1])
    # Group 0 is predicted right and group 1 wrong: log f_0 = -(1 - 0), in this very step.
    loss = TargetStep(clipper, positive)(model, rows, torch.ones(4), groups, row_products)
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx((math.exp(-1) * (1 + 3) - 2 + 5) / 4)
    assert loss.item() == pytest.approx(7 / 4)
    assert not loss.requires_grad
    factors = clipper.trace.to_frame()[["factor[0]", "factor[1]"]].iloc[0].tolist()
    assert factors == pytest.approx([math.exp(-1), 1])


def test_worked_by_hand_with_probabilities() -> None:
    model = one_weight()
    cap = TargetCap("worst_cell", gap=0.1, rate=1.0, smoothing=0.0, floor=0.0)
    clipper = FairClipper(model, cap, group_counts=[200, 100])
    rows = torch.tensor([[math.log(3)], [0.0], [-math.log(4)]])  # .75, .5 and .2 for class 1
    groups = torch.tensor([0, 0, 1])
    TargetStep(clipper, chances)(model, rows, torch.ones(3), groups, row_products)
    factors = clipper.trace.to_frame()[["factor[0]", "factor[1]"]].iloc[0].tolist()
    assert factors == pytest.approx([math.exp(-(0.625 - 0.2 - 0.1)), 1])


def test_other_caps_are_refused() -> None:
    clipper = FairClipper(one_weight(), NormCap(), n_groups=2)
    with pytest.raises(TypeError, match="`clipper` must have a TargetCap, got NormCap"):
        TargetStep(clipper, positive)


def test_a_loss_of_another_shape_is_refused() -> None:
    model = one_weight()
    clipper = FairClipper(model, TargetCap("worst_cell", gap=0.1), group_counts=[200, 100])
    step = TargetStep(clipper, positive)
    with pytest.raises(ValueError, match="one loss per row"):
        step(model, torch.ones(3, 1), torch.ones(3), torch.zeros(3).long(), lambda o, _: o)


def recalls_on_german(gap: float, seed: int) -> tuple[NDArray[np.float64], float]:
    """Train a logistic regression; return the cells' recalls, (2, 2) by label, and accuracy."""
    data = load_german()
    inputs = torch.tensor(pd.get_dummies(data.X).to_numpy("float32"))
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    targets = torch.tensor(data.y.to_numpy("float32"))
    encoder = GroupEncoder(with_label=True).fit(data.sensitive_features, data.y)
    groups = torch.as_tensor(encoder.transform(data.sensitive_features, data.y))
    model = make_mlp(inputs.shape[1], 1, (), seed=seed)
    clipper = FairClipper(model, TargetCap("equalized_odds", gap, rate=0.5), encoder=encoder)
    train(
        model,
        inputs,
        targets,
        groups,
        step=TargetStep(clipper, positive),
        loss_fn=lambda outputs, y: torch.nn.functional.binary_cross_entropy_with_logits(
            outputs.squeeze(1), y, reduction="none"
        ),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        batches=GroupBatchSampler(groups, batch_size=64, seed=seed),
        epochs=20,
    )
    right = (positive(infer(model, inputs)) == targets).double()
    recalls = np.array([float(right[groups == k].mean()) for k in range(4)])
    return np.stack([recalls[encoder.strata_ == y] for y in (0, 1)]), float(right.mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_on_german_the_recalls_come_closer_to_the_gap(seed: int) -> None:
    gap = 0.02
    plain, accuracy_plain = recalls_on_german(1.0, seed)  # no recall differs by more: no cap
    capped, accuracy = recalls_on_german(gap, seed)
    # .18 and .18 without it, .04 and .08 with it.
    off = [np.ptp(recalls, axis=1).max() - gap for recalls in (plain, capped)]
    assert off[0] > 0.12
    assert off[1] < 0.5 * off[0]
    assert accuracy > accuracy_plain - 0.02
    assert capped.min() > 0.35  # by no constant prediction
