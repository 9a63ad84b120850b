"""Measurements against values that are worked out in another way."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.diagnosis._models import HEALTHY, Case, labels, mlp, recurrent


def test_the_gradient_at_each_layer_and_of_each_row() -> None:
    torch.manual_seed(0)
    case = HEALTHY["MLP"]()
    table = case.diagnose().measurements
    first, _, second, _, third = case.model
    outputs = [first(case.inputs)]
    outputs.append(second(outputs[0].relu()))
    outputs.append(third(outputs[1].relu()))
    expected = torch.autograd.grad(
        cross_entropy(outputs[-1], case.targets), outputs, retain_graph=True
    )
    assert list(table.of("output gradient norm").values()) == pytest.approx(
        [float(gradient.norm()) for gradient in expected]
    )
    for where, value in table.of("row gradient norm").items():
        i = [int(where.removeprefix("row "))]
        loss = cross_entropy(case.model(case.inputs[i]), case.targets[i])
        row = torch.autograd.grad(loss, list(case.model.parameters()))
        assert value == pytest.approx(sum(float(g.square().sum()) for g in row) ** 0.5, rel=1e-4)


def test_the_update_ratio_of_sgd_is_its_gradient() -> None:
    torch.manual_seed(0)
    model = mlp(13, 32, 5)
    case = Case(model, torch.randn(64, 13), labels())
    case.optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = cross_entropy(model(case.inputs), case.targets)
    (gradient,) = torch.autograd.grad(loss, [model[0].weight])
    ratios = case.diagnose().measurements.of("update ratio")
    expected = 0.5 * float(gradient.norm()) / 32**0.5
    assert ratios["0.weight"] == pytest.approx(expected, rel=1e-4)


def test_a_linear_recurrence_grows_by_its_factor() -> None:
    """alpha^L: 1.2^50 is above 9,000, and a clip would hide it."""
    torch.manual_seed(0)
    case = recurrent(nn.RNN, n_steps=51, nonlinearity="relu")
    layer = case.model.recurrent
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.bias_ih_l0.fill_(1.0)  # no ReLU is off
        layer.weight_ih_l0.copy_(0.1 * torch.rand(32, 16))
        layer.weight_hh_l0.copy_(1.2 * torch.eye(32))
        case.model.embedding.weight.mul_(1e-3)
    table = case.diagnose()
    assert table.measurements.of("growth over time")["recurrent"] == pytest.approx(
        1.2**50, rel=1e-3
    )
    assert table.measurements.of("rate over time")["recurrent"] == pytest.approx(1.2, rel=1e-4)
    assert "exploding through time" in {finding.fault for finding in table.findings}


def test_the_frame_has_every_number() -> None:
    torch.manual_seed(0)
    diagnosis = HEALTHY["MLP"]().diagnose()
    frame = diagnosis.to_frame()
    assert list(frame.columns) == ["quantity", "where", "value", "note"]
    assert len(frame) == len(diagnosis.measurements)
    assert set(frame.loc[frame["quantity"] == "input mean", "where"]) == {
        f"0, feature {i}" for i in range(13)
    }
