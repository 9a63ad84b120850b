"""Data sets of groups, hard norms, and sequences of batches for the cap."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairclip.capping import NormCap

COUNTS = {
    "one group": [50],
    "two groups": [900, 100],
    "equal": [200, 200, 200],
    "tie for the minority": [500, 80, 80, 300],
    "one pooled": [500, 200, 12, 90],
    "many pooled": [400, 5, 17, 29, 60, 30],
    "many groups": [40 + 13 * k for k in range(24)],
}

NORMS: dict[str, Callable[[int], float]] = {
    "ordinary": lambda k: 1.0 + k,
    "equal": lambda _: 0.3,
    "tiny": lambda k: 1e-6 * (1 + k % 3),
    "huge": lambda k: 1e6 * (1 + k % 5),
    "spread": lambda k: 10.0 ** (6 * (-1) ** k),
    "zero among them": lambda k: float(k % 2),
    "all zero": lambda _: 0.0,
}

CAPS = {
    "default": NormCap(),
    "literal": NormCap.per_step(2.0),
    "below one": NormCap(max_ratio=0.01),
    "no past": NormCap(max_ratio=1.0, smoothing=0.0),
    "smallest norm": NormCap(max_ratio=1.5, reference="smallest_norm"),
    "constant floor": NormCap(max_ratio=0.5, floor=0.25, smoothing=0.5),
    "within label": NormCap(max_ratio=1.0, within="label"),
    "within label, no past": NormCap(max_ratio=0.5, within="label", smoothing=0.0),
    "within label, smallest norm": NormCap(
        max_ratio=0.3, within="label", reference="smallest_norm", max_factor=1.5
    ),
    "within label, balanced": NormCap(max_ratio=1.0, within="label", label_balance=0.5),
}


def strata(n_groups: int) -> list[int]:
    """Two labels with codes that are not 0 and 1; one where there are not enough groups."""
    return [7 if k % 2 and n_groups > 3 else -2 for k in range(n_groups)]


@dataclass(frozen=True)
class Batch:
    norms: Tensor  # (K,) or (L, K), NaN where absent
    counts: Tensor  # (K,) int64

    @property
    def present(self) -> Tensor:
        return self.counts > 0

    def to(self, device: str) -> "Batch":
        return Batch(self.norms.to(device), self.counts.to(device))


def batches(
    n_groups: int,
    n_steps: int,
    seed: int,
    *,
    n_layers: int | None = None,
    nonfinite: bool = False,
    dtype: torch.dtype = torch.float64,
) -> list[Batch]:
    """Random steps with absent groups, zero norms and, if asked, norms that are not finite."""
    rng = np.random.default_rng(seed)
    shape = (n_groups,) if n_layers is None else (n_layers, n_groups)
    steps = []
    for _ in range(n_steps):
        counts = rng.integers(1, 30, n_groups) * (rng.random(n_groups) < 0.7)
        norms = np.exp(rng.normal(0, 2, shape)) * (rng.random(shape) < 0.95)
        if nonfinite and rng.random() < 0.2:
            norms[..., rng.integers(n_groups)] = rng.choice([np.nan, np.inf])
        norms = np.where(counts > 0, norms, np.nan)
        steps.append(Batch(torch.tensor(norms, dtype=dtype), torch.tensor(counts)))
    return steps
