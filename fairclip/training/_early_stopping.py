"""Stop when the validation loss no longer falls, and keep the best weights."""

import math

from torch import Tensor, nn

from fairclip.training._loop import infer
from fairclip.training._rows import Inputs
from fairclip.training._steps import RowLosses


class EarlyStopping:
    """Watches the mean loss of rows that are held back.

    Args:
        inputs: The rows held back, ``(V, d)``.
        targets: Their targets, ``(V,)``, on the CPU.
        loss_fn: Returns one loss per row.
        n_iter_no_change: Epochs without a new minimum after which training ends.

    Attributes:
        curve: The validation loss after each epoch.
    """

    def __init__(
        self, inputs: Inputs, targets: Tensor, loss_fn: RowLosses, n_iter_no_change: int
    ) -> None:
        self.curve: list[float] = []
        self._inputs = inputs
        self._targets = targets
        self._loss_fn = loss_fn
        self._n_iter_no_change = n_iter_no_change
        self._best_loss = math.inf
        self._best_epoch = -1
        self._best_weights: dict[str, Tensor] = {}

    def __call__(self, epoch: int, model: nn.Module) -> bool:
        """Measure the loss; return whether training should end."""
        loss = float(self._loss_fn(infer(model, self._inputs), self._targets).mean())
        self.curve.append(loss)
        if loss < self._best_loss or not self._best_weights:
            self._best_loss, self._best_epoch = loss, epoch
            self._best_weights = {
                name: value.detach().clone() for name, value in model.state_dict().items()
            }
        return epoch - self._best_epoch >= self._n_iter_no_change

    def restore(self, model: nn.Module) -> None:
        """Give ``model`` the weights of the epoch with the least validation loss."""
        model.load_state_dict(self._best_weights)
