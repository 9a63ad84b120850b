"""The predictions and targets of a batch as tensors. Shapes: B rows."""

import numpy as np
import torch
from torch import Tensor

from fairclip.clipper._codes import Codes


def as_predictions(predicted: Codes, targets: Codes, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as tensors, where they are.

    Raises:
        TypeError: If ``predicted`` are no codes.
        ValueError: If the shapes are not those of ``codes``.
    """
    predicted, targets = (
        x if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in (predicted, targets)
    )
    if predicted.is_floating_point() or predicted.is_complex():
        raise TypeError(
            f"`predicted_codes` must be class codes, got {predicted.dtype}: cut scores first, as "
            "`outputs.argmax(1)` or `outputs.squeeze(1) > 0`."
        )
    if not predicted.shape == targets.shape == codes.shape:
        raise ValueError(
            "`predicted_codes`, `targets` and `groups` must have one shape, got "
            f"{tuple(predicted.shape)}, {tuple(targets.shape)} and {tuple(codes.shape)}."
        )
    return predicted, targets
