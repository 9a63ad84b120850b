"""What follows from a fault is told apart from it; a real table that nobody scaled."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip.datasets import load_adult
from fairclip.diagnosis import Diagnosis, diagnose
from tests.diagnosis._models import Case, labels, mlp
from tests.diagnosis._properties import assert_only


def _adult(seed: int, *, scaled: bool) -> Diagnosis:
    torch.manual_seed(seed)
    adult = load_adult()
    rows = adult.X.select_dtypes("number").sample(256, random_state=seed)
    inputs = torch.tensor(rows.to_numpy(), dtype=torch.float32)
    if scaled:
        inputs = (inputs.clamp(max=1e4) - inputs.mean(0)) / inputs.std(0)
    targets = torch.tensor(adult.y[rows.index].to_numpy(), dtype=torch.float32)[:, None]
    model = mlp(inputs.shape[1], 64, 64, 1)

    def loss_fn(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy_with_logits(scores, targets, reduction="none")

    return diagnose(model, (inputs, targets), loss_fn, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("seed", range(3))
def test_raw_adult_features_are_not_scaled(seed: int) -> None:
    finding = assert_only(_adult(seed, scaled=False), "input scale", "0, feature")
    assert finding.value > 50  # ages and hours
    assert not _adult(seed, scaled=True).findings


def test_a_cause_and_its_consequences_are_told_apart() -> None:
    torch.manual_seed(0)
    model = mlp(64, *[128] * 8, 5)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    diagnosis = Case(model, torch.randn(64, 64), labels(), optimizer=optimizer).diagnose()
    assert_only(diagnosis, "initial weights", "weight")
    symptoms = [finding.fault for finding in diagnosis.symptoms]
    assert {"unbounded activations", "exploding gradients"} <= set(symptoms)
    text = str(diagnosis)
    assert text.index("initial weights") < text.index("may follow") < text.index("exploding")


def test_two_causes_are_both_found() -> None:
    torch.manual_seed(0)
    model = mlp(64, 128, 5)
    nn.init.normal_(model[0].weight)
    diagnosis = Case(model, 100 * torch.randn(64, 64), labels()).diagnose()
    assert [f.fault for f in diagnosis.findings] == ["input scale", "initial weights"]
