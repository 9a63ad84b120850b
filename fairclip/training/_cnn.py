"""A small convolutional network for square images of one channel. Shapes: B rows, s × s pixels."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from fairclip.training._device import seeded


def make_cnn(
    n_pixels: int, n_outputs: int, channels: Sequence[int] = (64, 64), *, seed: int
) -> nn.Sequential:
    """Build 3 × 3 convolutions with ReLU, each halving the image; equal seeds give equal weights.

    The weights are float32 on the CPU, whatever torch's defaults are. torch's global random state
    is neither used nor changed.

    Args:
        n_pixels: Columns of the input: the pixels of a square image, row by row.
        n_outputs: Columns of the output (logits).
        channels: Of each convolution; empty makes a linear model.
        seed: Of the initial weights.

    Shape:
        - Input: ``(B, s * s)``. Output: ``(B, n_outputs)``.

    Raises:
        ValueError: If ``n_pixels`` is no square, or a number of channels is below 1.

    Example:
        >>> make_cnn(64, 1, channels=(4,), seed=0)
        Sequential(
          (0): Unflatten(dim=1, unflattened_size=(1, 8, 8))
          (1): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
          (2): ReLU()
          (3): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=True)
          (4): Flatten(start_dim=1, end_dim=-1)
          (5): Linear(in_features=64, out_features=1, bias=True)
        )
    """
    side = math.isqrt(n_pixels)
    if n_pixels < 1 or side * side != n_pixels:
        raise ValueError(f"`n_pixels` must be the square of a side, got {n_pixels}.")
    if not all(n >= 1 for n in channels):
        raise ValueError(f"`channels` must be positive integers, got {channels!r}.")
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    with seeded(seed, torch.device("cpu")):
        for n_in, n_out in pairwise([1, *channels]):
            convolution = nn.Conv2d(
                n_in, n_out, kernel_size=3, padding=1, device="cpu", dtype=torch.float32
            )
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            side = (side + 1) // 2
        n_features = [1, *channels][-1] * side * side
        linear = nn.Linear(n_features, n_outputs, device="cpu", dtype=torch.float32)
    return nn.Sequential(*layers, nn.Flatten(), linear)
