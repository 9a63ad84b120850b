"""What cannot be diagnosed is rejected at the entrance, with the remedy."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fairclip.diagnosis import diagnose
from tests.diagnosis._models import Case, labels, mlp
from tests.diagnosis._properties import assert_left_as_it_was

ROWS = torch.randn(8, 13)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (ROWS, TypeError, r"`batch` must be a pair \(inputs, targets\), got Tensor"),
        ((ROWS, labels(8), 1), TypeError, "`batch` must be a pair .*, got tuple of 3"),
        (([[1.0]], labels(8)), TypeError, "`batch` must hold inputs that are a tensor"),
        ((ROWS[:0], labels(0)), ValueError, "`batch` must have rows, got none"),
        ((ROWS, labels(7)), ValueError, r"inputs of shape \(8, 13\) and targets of shape \(7,\)"),
    ],
)
def test_the_batch(batch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        diagnose(mlp(13, 5), batch, cross_entropy)


@pytest.mark.parametrize("model", [nn.ReLU(), mlp(13, 5).requires_grad_(False)])
def test_a_model_that_does_not_train(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"parameters that require a gradient.*requires_grad_"):
        diagnose(model, (ROWS, labels(8)), cross_entropy)


def test_lazy_parameters() -> None:
    with pytest.raises(ValueError, match=r"lazy parameters without a shape\. Run it"):
        diagnose(nn.LazyLinear(5), (ROWS, labels(8)), cross_entropy)


@pytest.mark.parametrize(
    ("loss_fn", "error", "message"),
    [
        (lambda x, y: cross_entropy(x.detach(), y), ValueError, "must depend on the model's"),
        (lambda x, _: torch.ones((), requires_grad=True) * x.shape[0], ValueError, "must depend"),
        (lambda x, y: float(cross_entropy(x.detach(), y)), TypeError, "must return a tensor, got"),
    ],
)
def test_the_loss(loss_fn: Any, error: type[Exception], message: str) -> None:
    case = Case(mlp(13, 5), ROWS, labels(8), loss_fn)
    with assert_left_as_it_was(case), pytest.raises(error, match=message):
        case.diagnose()


def test_arguments_of_another_type() -> None:
    batch: Any = (ROWS, labels(8))
    model: Any = mlp(13, 5)
    wrong: Any = cross_entropy
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn.Module, got function"):
        diagnose(wrong, batch, cross_entropy)
    wrong = "mse"
    with pytest.raises(TypeError, match="`loss_fn` must be callable"):
        diagnose(model, batch, wrong)
    wrong = 0.1
    with pytest.raises(
        TypeError, match=r"`optimizer` must be a torch\.optim\.Optimizer, got float"
    ):
        diagnose(model, batch, cross_entropy, wrong)


def test_the_optimizer_of_another_model() -> None:
    optimizer = torch.optim.SGD(mlp(13, 5).parameters())
    with pytest.raises(ValueError, match="`optimizer` must hold parameters of `model`"):
        diagnose(mlp(13, 5), (ROWS, labels(8)), cross_entropy, optimizer)
