"""fairclip in a loop of Hugging Face Accelerate."""

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from fairclip.clipper import FairClipper
from fairclip.trace import StepRecord

__all__ = ["clip_grad_"]


def clip_grad_(
    clipper: FairClipper, accelerator: Any, optimizer: Optimizer | Sequence[Optimizer]
) -> StepRecord | None:
    """Cap, recombine and clip, in the place of ``accelerator.clip_grad_norm_``.

    `FairClipper.clip_grad_` knows nothing of ``accelerator.accumulate``: called after every batch
    it would cap each on its own. This one does nothing after batches in which the optimizer does
    not step, and uses the accelerator's loss scaler where there is one.

    ``accelerator.backward`` goes inside of `FairClipper.watch`; all else stays as it is. After
    ``accelerator.register_for_checkpointing(clipper)`` also ``save_state`` and ``load_state`` take
    the clipper along.

    Args:
        clipper: Of the model, prepared or not; one that the accelerator compiles needs
            `FairClipper.weigh` in the place of ``watch``.
        accelerator: The ``accelerate.Accelerator`` that prepared the model.
        optimizer: Prepared or not; a list of all of the model's where there are several.

    Returns:
        What happened, or None where nothing did.

    Raises:
        RuntimeError: As `FairClipper.clip_grad_` does.

    Example:
        >>> import torch, fairclip
        >>> from accelerate import Accelerator
        >>> from fairclip.integrations.accelerate import clip_grad_
        >>> inputs, targets = torch.randn(160, 4), torch.randn(160, 1)
        >>> codes = [0, 0, 0, 1] * 40
        >>> data = torch.utils.data.TensorDataset(inputs, targets)
        >>> model = torch.nn.Linear(4, 1)
        >>> clipper = fairclip.FairClipper(model, group_counts=[120, 40])
        >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        >>> model, optimizer, loader = accelerator.prepare(
        ...     model,
        ...     torch.optim.SGD(model.parameters(), lr=0.1),
        ...     torch.utils.data.DataLoader(fairclip.with_groups(data, codes), batch_size=40),
        ... )
        >>> for inputs, targets, groups in loader:
        ...     with accelerator.accumulate(model), clipper.watch(groups):
        ...         loss = torch.nn.functional.mse_loss(model(inputs), targets)
        ...         accelerator.backward(loss)
        ...     record = clip_grad_(clipper, accelerator, optimizer)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> clipper.trace.to_frame()[["step", "n[0]", "n[1]"]]
           step  n[0]  n[1]
        0     0    60    20
        1     1    60    20
    """
    if not accelerator.sync_gradients:
        return None
    if accelerator.scaler is None:
        return clipper.clip_grad_()
    return clipper.clip_grad_(accelerator.scaler, optimizer)
