import pytest
import torch

from fairclip.training._early_stopping import EarlyStopping
from tests.training._inputs import one_weight, row_products


def stopping(n_iter_no_change: int = 2) -> EarlyStopping:
    return EarlyStopping(torch.ones(3, 1), torch.ones(3), row_products, n_iter_no_change)


def run(stop: EarlyStopping, losses: list[float]) -> int:
    """Return how many epochs run when the validation losses are these, and restore."""
    model = one_weight()
    for epoch, loss in enumerate(losses):
        torch.nn.init.constant_(model.weight, loss)
        if stop(epoch, model):
            break
    stop.restore(model)
    assert model.weight.item() == pytest.approx(min(stop.curve))
    return len(stop.curve)


@pytest.mark.parametrize(
    ("losses", "n_epochs"),
    [
        ([3, 2, 1, 0.5, 0.25], 5),
        ([3, 1, 2, 2, 0], 4),
        ([3, 1, 2, 0.5, 2, 1, 0], 6),
        ([1, 1, 1, 1], 3),
    ],
)
def test_stops_after_two_epochs_without_a_minimum(losses: list[float], n_epochs: int) -> None:
    stop = stopping(n_iter_no_change=2)
    assert run(stop, losses) == n_epochs
    assert stop.curve == losses[:n_epochs]


def test_weights_are_copied_when_they_are_best() -> None:
    stop, model = stopping(), one_weight(1.0)
    stop(0, model)
    torch.nn.init.constant_(model.weight, 5.0)
    stop.restore(model)
    assert model.weight.item() == 1
