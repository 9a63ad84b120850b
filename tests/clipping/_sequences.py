"""Norms of gradients, step by step, for the modes that remember them."""

import numpy as np
import torch
from torch import Tensor, nn

from fairclip.clipping import ClipRecord
from fairclip.clipping._adaptive import Adaptive


def lognormal(n_steps: int, seed: int = 0) -> list[float]:
    """Return norms around 1, as of ordinary training."""
    values: list[float] = np.random.default_rng(seed).lognormal(0.0, 0.25, n_steps).tolist()
    return values


def with_spikes(norms: list[float], every: int = 20, factor: float = 100.0) -> list[float]:
    """Return the norms with each ``every``-th times ``factor``."""
    return [x * factor if i % every == every - 1 else x for i, x in enumerate(norms)]


SEQUENCES: dict[str, list[float]] = {
    "random": lognormal(80),
    "spikes": with_spikes(lognormal(80, seed=1)),
    "constant": [2.5] * 40,
    "tiny": [1e-9 * x for x in lognormal(40, seed=2)],
    "zero": [0.0] * 40,
    "some zero": [x * (i % 3 > 0) for i, x in enumerate(lognormal(40, seed=3))],
    "rising": [1.1**i for i in range(60)],
    "falling": [0.8**i for i in range(60)],
    "far apart": [10.0 ** (6 if i % 2 else -6) for i in range(40)],
    "one": [3.0],
}


def parameter(norm: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    """Return a parameter whose gradient has about this norm."""
    made = nn.Parameter(torch.zeros(2, dtype=dtype))
    made.grad = torch.tensor([0.6 * norm, -0.8 * norm], dtype=dtype)
    return made


def run(
    mode: Adaptive, norms: list[float], dtype: torch.dtype = torch.float64
) -> tuple[list[ClipRecord], list[Tensor]]:
    """Return the record and the gradient of each step, one parameter in all."""
    state = mode.init(parameter(0.0, dtype))
    records, gradients = [], []
    for norm in norms:
        clipped = parameter(norm, dtype)
        records.append(mode([clipped], state))
        assert clipped.grad is not None
        gradients.append(clipped.grad)
    return records, gradients


def thresholds(mode: Adaptive, norms: list[float]) -> list[float]:
    """Return the threshold of each step."""
    return [float(record.threshold) for record in run(mode, norms)[0]]
