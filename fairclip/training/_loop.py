"""The one fit loop, and its counterpart for inference."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fairclip.training._losses import weighted
from fairclip.training._rows import Inputs
from fairclip.training._steps import RowLosses, Step


def train(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    groups: Tensor,
    *,
    weights: Tensor | None = None,
    step: Step,
    loss_fn: RowLosses,
    optimizer: Optimizer,
    batches: Iterable[Sequence[int]],
    epochs: int,
    on_epoch: Callable[[int, nn.Module, float], bool | None] | None = None,
) -> list[float]:
    """Train ``model`` in place.

    Batches are moved to the model's device one by one; within an epoch nothing waits for the
    device on account of the loss. All randomness is in ``batches`` and in the model.

    Args:
        model: Its parameters are those of ``optimizer``. It is left in training mode.
        inputs: All rows, on any device, or anything that gives tensors for row numbers.
        targets: One target per row, as ``loss_fn`` takes them.
        groups: One group code per row, on the CPU; -1 = unknown.
        weights: What each row's loss is multiplied by, on the CPU; None: 1. With a mean of 1 they
            leave the meaning of the learning rate alone.
        step: Turns a batch into final gradients.
        loss_fn: ``loss_fn(outputs, targets)`` returns one loss per row.
        optimizer: Steps once per batch.
        batches: Lists of row numbers; iterated once per epoch, as a `GroupBatchSampler` is.
        epochs: Passes over ``batches``.
        on_epoch: Called as ``on_epoch(epoch, model, loss)`` after each epoch, counted from 0, with
            its mean loss; True ends the training.

    Shape:
        - ``inputs``: ``(N, d)`` or ``(N, ...)``. ``targets``: ``(N,)``. ``groups``: ``(N,)`` int64.
          ``weights``: ``(N,)``.

    Returns:
        The mean weighted loss per row of each epoch, measured while the weights were moving.

    Raises:
        ValueError: If ``loss_fn`` does not return one loss per row.

    Example:
        >>> import torch
        >>> from fairclip import FairClipper, GroupBatchSampler
        >>> from fairclip.training import FairStep, make_mlp, train
        >>> inputs = torch.linspace(-1, 1, 100)[:, None]
        >>> targets, groups = (inputs[:, 0] > 0).float(), (torch.arange(100) % 3 == 0).long()
        >>> model = make_mlp(1, 1, seed=0)
        >>> curve = train(
        ...     model,
        ...     inputs,
        ...     targets,
        ...     groups,
        ...     step=FairStep(FairClipper(model, group_counts=groups.bincount())),
        ...     loss_fn=lambda outputs, targets: (outputs[:, 0] - targets) ** 2,
        ...     optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        ...     batches=GroupBatchSampler(groups, batch_size=20),
        ...     epochs=3,
        ... )
        >>> curve[0] > curve[1] > curve[2]
        True
    """
    device = next(model.parameters()).device
    curve = []
    for epoch in range(epochs):
        model.train()
        total, n_rows = torch.zeros((), device=device), 0
        for batch in batches:
            rows = torch.as_tensor(batch)  # (B,)
            optimizer.zero_grad()
            loss = step(
                model,
                inputs[rows].to(device, non_blocking=True),
                targets[rows].to(device, non_blocking=True),
                groups[rows],
                weighted(loss_fn, None if weights is None else weights[rows]),
            )
            optimizer.step()
            total += loss * len(rows)
            n_rows += len(rows)
        curve.append(float(total) / n_rows)
        if on_epoch is not None and on_epoch(epoch, model, curve[-1]):
            break
    return curve


@torch.no_grad()
def infer(model: nn.Module, inputs: Inputs, batch_size: int = 4096) -> Tensor:
    """Return the model's outputs for all rows, on the CPU.

    The model runs in evaluation mode and is put back into the mode it was in.

    Shape:
        - ``inputs``: ``(N, d)`` or ``(N, ...)``. Output: ``(N, ...)``.
    """
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        starts = range(0, max(len(inputs), 1), batch_size)  # no rows have a shape too
        parts = (inputs[start : start + batch_size].to(device) for start in starts)
        return torch.cat([model(part).cpu() for part in parts])
    finally:
        for module, mode in modes.items():
            module.training = mode
