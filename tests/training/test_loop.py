from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairclip.training import WeightedStep, infer, train
from tests._no_waiting import NoWaiting
from tests.training._inputs import one_weight, row_products

ROWS = torch.tensor([[1.0], [2.0], [4.0], [6.0]])
GROUPS = torch.zeros(4, dtype=torch.int64)
BATCHES = [[3, 0], [1, 2]]


def fit(model: nn.Module, **options: Any) -> list[float]:
    arguments: dict[str, Any] = {
        "step": WeightedStep(torch.ones(1)),
        "loss_fn": row_products,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": BATCHES,
        "epochs": 1,
    }
    return train(model, ROWS, torch.ones(4), GROUPS, **(arguments | options))


def test_one_epoch_worked_by_hand() -> None:
    model = one_weight(1.0)
    # Rows 3 and 0: loss and gradient 7/2. The weight goes to 0.65, then rows 1 and 2: 3 * 0.65.
    assert fit(model) == pytest.approx([(3.5 + 3 * 0.65) / 2])
    assert model.weight.item() == pytest.approx(1 - 0.35 - 0.3)


def test_the_loss_counts_rows_not_batches() -> None:
    assert fit(one_weight(), batches=[[0, 1, 2], [3]])[0] == pytest.approx(
        (1 + 2 + 4 + 6 * (1 - 0.1 * 7 / 3)) / 4
    )


def test_left_over_gradients_are_dropped() -> None:
    clean, dirty = one_weight(), one_weight()
    dirty.weight.grad = torch.full((1, 1), 100.0)
    fit(clean)
    fit(dirty)
    assert torch.equal(clean.weight, dirty.weight)


def test_on_epoch_sees_every_epoch_and_ends_the_training() -> None:
    model, seen = one_weight(), []

    def on_epoch(epoch: int, trained: nn.Module, loss: float) -> bool:
        assert trained is model
        trained.eval()
        seen.append((epoch, loss))
        return epoch == 2

    curve = fit(model, epochs=9, on_epoch=on_epoch)
    assert seen == list(enumerate(curve))
    assert len(curve) == 3


def test_every_epoch_is_in_training_mode() -> None:
    modes = []

    class Watched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(input)

    model = Watched(1, 1)
    fit(model, epochs=2, on_epoch=lambda _, trained, loss: bool(trained.eval() is None))
    assert modes == [True] * 4


class NoWaitingWithin:
    """Ten batches; nothing may wait from the first of an epoch to its end."""

    def __iter__(self) -> Iterator[list[int]]:
        with NoWaiting():
            yield from BATCHES * 5


def test_nothing_waits_for_the_device_within_an_epoch() -> None:
    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        with pytest.raises(AssertionError, match="local_scalar_dense"):
            outputs.max().item()  # the guard is up
        return row_products(outputs, targets)

    assert len(fit(one_weight(), batches=NoWaitingWithin(), loss_fn=losses, epochs=2)) == 2


def test_infer_is_the_forward_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model[2].eval()
    outputs = infer(model, ROWS, batch_size=3)
    assert [module.training for module in model] == [True, True, False]
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, model.eval()(ROWS))


def test_infer_takes_no_rows() -> None:
    assert infer(nn.Linear(1, 3), ROWS[:0]).shape == (0, 3)
