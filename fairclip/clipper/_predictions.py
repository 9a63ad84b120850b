"""Which rows of a batch were predicted right. Shapes: B rows, C classes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import on_host, to_device
from fairclip.clipper._codes import Codes

Predicted = Tensor | np.ndarray | Sequence[float]

_ROUNDING = 1e-3  # of probabilities in low precision


def hits_of(predicted: Predicted, targets: Codes, codes: Tensor) -> Tensor:
    """Return how much each row (B,) was predicted right, in [0, 1], where ``predicted`` is.

    Args:
        predicted: As in `FairClipper.observe`.
        targets: Likewise.
        codes: The rows' groups; -1 = unknown.

    Raises:
        TypeError: If ``predicted`` are complex.
        ValueError: As in `FairClipper.observe`.
    """
    predicted, targets = (
        x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
        for x in (predicted, targets)
    )
    if predicted.is_complex():
        raise TypeError(f"`predicted` must be codes or probabilities, got {predicted.dtype}.")
    is_soft = predicted.is_floating_point()
    by_class = is_soft and predicted.ndim == codes.ndim + 1 and predicted.shape[-1] > 1
    rows = predicted.shape[:-1] if by_class else predicted.shape
    if not rows == targets.shape == codes.shape:
        raise ValueError(
            "`predicted`, `targets` and `groups` must have one shape, or `predicted` one more "
            f"dimension with the probabilities of at least 2 classes, got {tuple(predicted.shape)},"
            f" {tuple(targets.shape)} and {tuple(codes.shape)}."
        )
    targets = to_device(targets, predicted.device)
    if not is_soft:
        return (predicted == targets).double()
    if not by_class:
        predicted = torch.stack((1 - predicted, predicted), -1)
    return _of_true_class(predicted, targets.long(), codes)


def _of_true_class(probabilities: Tensor, targets: Tensor, codes: Tensor) -> Tensor:
    """Return the probability (B,) of each row's class, 0 where there is none."""
    n_classes = probabilities.shape[-1]
    places = targets.clamp(0, n_classes - 1)[..., None]
    found = probabilities.gather(-1, places).squeeze(-1).double()
    is_class = targets == places.squeeze(-1)
    if on_host(found.device):  # on a device nobody waits for it
        values, known = found.numpy(), codes.numpy() >= 0
        if (values < -_ROUNDING).any() or (values > 1 + _ROUNDING).any():
            raise ValueError(
                "`predicted` as floating numbers must be probabilities in [0, 1], got "
                f"{values.min():.4g} to {values.max():.4g}: apply `sigmoid` or `softmax` to logits."
            )
        if not is_class.numpy()[known].all():
            raise ValueError(
                f"`targets` must be in 0..{n_classes - 1} beside probabilities of {n_classes} "
                "classes."
            )
    return torch.where(is_class, found.nan_to_num(0.0).clamp(0, 1), 0.0)
