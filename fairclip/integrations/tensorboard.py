"""TensorBoard: each step's numbers as scalars, and each group's gradients as histograms.

The writer is torch's ``SummaryWriter``, or any other with ``add_scalar`` and ``add_histogram``.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fairclip._extras import require
from fairclip.clipper import FairClipper

__all__ = ["Scalars", "log_histograms"]

require("tensorboard", "tensorboard")  # torch's writer says nothing of how to get it


class Writer(Protocol):
    """What ``torch.utils.tensorboard.SummaryWriter`` has."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any:
        """Write a number."""

    def add_histogram(self, tag: str, values: Tensor, global_step: int, /) -> Any:
        """Write a histogram."""


@dataclass(frozen=True, slots=True)
class Scalars:
    """A logger for `fairclip.Trace.log_to` that writes each number with the tag "fairclip/<name>".

    The names are the columns of ``trace.to_frame()``.

    Args:
        writer: A ``SummaryWriter``, which stays the user's to close.

    Example:
        >>> import torch, fairclip
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> from fairclip.integrations.tensorboard import Scalars, log_histograms
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
        >>> with SummaryWriter("runs") as writer:
        ...     handle = clipper.trace.log_to(Scalars(writer), every=10)
        ...     for step in range(20):
        ...         with clipper.watch([0, 0, 0, 1]):
        ...             model(torch.randn(4, 3)).square().mean().backward()
        ...         if step % 10 == 0:
        ...             log_histograms(writer, clipper, step)
        ...         record = clipper.clip_grad_()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        >>> events = EventAccumulator("runs").Reload()
        >>> [event.step for event in events.Scalars("fairclip/factor[0]")]
        [0, 10]
        >>> events.Histograms("fairclip/gradient[1][0]")[-1].step
        10
    """

    writer: Writer

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        """Write the numbers of a step."""
        for name, number in numbers.items():
            self.writer.add_scalar(f"fairclip/{name}", number, step)


def log_histograms(
    writer: Writer,
    clipper: FairClipper,
    step: int,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write each group's gradient, a histogram by layer: "fairclip/gradient[<layer>][<group>]".

    To be called between the backward pass and ``clip_grad_``, in a few steps only: it costs K
    gradients of memory and waits for the device. A layer is all up to the last dot of its
    parameters' names. A group without rows has no histogram, nor has a gradient that is not finite.

    Args:
        writer: A ``SummaryWriter``.
        clipper: In a step of ``watch`` or ``backward``.
        step: Its number.
        scaler: The loss scaler, if the loss was scaled.

    Raises:
        RuntimeError: As `FairClipper.gradients_by_group`.
    """
    for group, gradients in clipper.gradients_by_group(scaler).items():
        layers: dict[str, list[Tensor]] = {}
        for name, gradient in gradients.items():
            layers.setdefault(name.rpartition(".")[0], []).append(gradient.float().flatten())
        for layer, pieces in layers.items():
            values = torch.cat(pieces).cpu()
            if values.isfinite().all():
                writer.add_histogram(f"fairclip/gradient[{layer}][{group}]", values, step)
