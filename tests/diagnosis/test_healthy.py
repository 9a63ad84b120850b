"""Ordinary models, fresh and after some training, have no fault."""

import pytest
import torch

from tests.diagnosis._models import HEALTHY, OPTIMIZERS, Case, mlp
from tests.diagnosis._properties import assert_nothing


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in(name: str, optimizer: str, seed: int) -> None:
    torch.manual_seed(seed)
    case = HEALTHY[name]()
    case.optimizer = OPTIMIZERS[optimizer](case.model.parameters())
    assert_nothing(case.diagnose())


@pytest.mark.parametrize("name", ["MLP", "CNN with batch norm", "GRU", "transformer"])
def test_nothing_is_found_after_fifty_steps(name: str) -> None:
    torch.manual_seed(0)
    case = HEALTHY[name]()
    case.optimizer = OPTIMIZERS["Adam"](case.model.parameters())
    for _ in range(50):
        case.optimizer.zero_grad()
        case.loss_fn(case.model(case.inputs), case.targets).mean().backward()
        case.optimizer.step()
    assert_nothing(case.diagnose())


@pytest.mark.parametrize("seed", range(3))
def test_constant_and_normalised_raw_features_are_fine(seed: int) -> None:
    torch.manual_seed(seed)
    raw = torch.randn(64, 4) * torch.tensor([1.0, 50.0, 1e4, 0.0]) + 1000
    targets = torch.randint(5, (64,))
    assert_nothing(Case(torch.nn.Sequential(torch.nn.BatchNorm1d(4), mlp(4, 32, 5)), raw, targets)
                   .diagnose())  # fmt: skip
    constant = torch.cat([torch.randn(64, 3), torch.full((64, 1), 1000.0)], 1)
    assert_nothing(Case(mlp(4, 5), constant, targets).diagnose())


def test_an_output_layer_that_starts_at_zero_is_fine() -> None:
    torch.manual_seed(0)
    model = mlp(13, 64, 64, 5)
    torch.nn.init.zeros_(model[-1].weight)
    optimizer = torch.optim.Adam(model.parameters())
    case = Case(model, torch.randn(64, 13), torch.randint(5, (64,)), optimizer=optimizer)
    assert_nothing(case.diagnose())


def test_lbfgs_gets_its_closure() -> None:
    torch.manual_seed(0)
    model = mlp(13, 32, 5)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=2)
    case = Case(model, torch.randn(64, 13), torch.randint(5, (64,)), optimizer=optimizer)
    assert case.diagnose().measurements.of("update ratio")
    assert_nothing(case.diagnose())
