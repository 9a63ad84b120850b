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
    if on_host(predicted.device):  # on a device it would have to be waited for
        _check_host(predicted, targets, codes, predicted.shape[-1] if by_class else 2)
    if not by_class:
        predicted = torch.stack((1 - predicted, predicted), -1)
    return _of_true_class(predicted, targets.long())


def _check_host(probabilities: Tensor, targets: Tensor, codes: Tensor, n_classes: int) -> None:
    values = probabilities.double().numpy()
    wrong = values[(values < -_ROUNDING) | (values > 1 + _ROUNDING)]
    if wrong.size:
        raise ValueError(
            f"`predicted` as floating numbers must be probabilities in [0, 1], got {wrong[0]:.4g}: "
            "apply `sigmoid` or `softmax` to logits."
        )
    labels = targets.numpy()[codes.numpy() >= 0]
    others = labels[~np.isin(labels, np.arange(n_classes))]
    if others.size:
        raise ValueError(
            f"`targets` must be in 0..{n_classes - 1} beside probabilities of {n_classes} classes, "
            f"got {others[0]:g}."
        )


def _of_true_class(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the probability (B,) of each row's class, 0 where there is none."""
    places = targets.clamp(0, probabilities.shape[-1] - 1)
    found = probabilities.gather(-1, places[..., None]).squeeze(-1)
    return torch.where(targets == places, found.double().nan_to_num(0.0).clamp(0, 1), 0.0)
