"""The default module: a multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import nn

from fairclip.training._device import seeded


def make_mlp(
    n_features: int, n_outputs: int, hidden: Sequence[int] = (64, 64), *, seed: int
) -> nn.Sequential:
    """Build linear layers with ReLU between them; equal seeds give equal weights.

    The weights are float32 on the CPU, whatever torch's defaults are. torch's global random state
    is neither used nor changed.

    Args:
        n_features: Columns of the input.
        n_outputs: Columns of the output (logits).
        hidden: Units of each hidden layer; empty makes a linear model.
        seed: Of the initial weights.

    Raises:
        ValueError: If ``hidden`` is not a sequence of positive integers.

    Example:
        >>> make_mlp(3, 1, hidden=(2,), seed=0)
        Sequential(
          (0): Linear(in_features=3, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=1, bias=True)
        )
    """
    if not (
        isinstance(hidden, Sequence)
        and all(isinstance(width, Integral) and width >= 1 for width in hidden)
    ):
        raise ValueError(f"`hidden` must be a sequence of positive integers, got {hidden!r}.")
    widths = [n_features, *map(int, hidden), n_outputs]
    layers: list[nn.Module] = []
    with seeded(seed, torch.device("cpu")):
        for n_in, n_out in pairwise(widths):
            linear = nn.Linear(n_in, n_out, device="cpu", dtype=torch.float32)
            layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
