"""Batches of vectors, ids and images. Shapes: B rows, T tokens, W features."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

B, T, W = 6, 5, 4
N_CLASSES = 3
N_TOKENS = 11

_random = torch.Generator().manual_seed(0)
# Of four steps; the third has no unknown rows.
CODES = [
    torch.tensor([0, 0, 0, 1, 2, -1]),
    torch.tensor([1, 0, 2, 2, -1, 0]),
    torch.tensor([0, 1, 1, 1, 2, 0]),
    torch.tensor([1, 0, 2, 2, -1, 0]),
]
VECTORS = torch.randn(4, B, T, W, generator=_random, dtype=torch.float64)
IDS = torch.randint(1, N_TOKENS, (4, B, T), generator=_random)
IMAGES = torch.randn(4, B, 3, 32, 32, generator=_random, dtype=torch.float64)
TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])


def cross_entropy(logits: Tensor) -> Tensor:
    """Return the losses of one step, (B,)."""
    return functional.cross_entropy(logits, TARGETS, reduction="none")


def classify(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(VECTORS[step]))


def classify_means(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(VECTORS[step].mean(1)))


def classify_ids(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(IDS[step]))


@dataclass(frozen=True)
class Batch:
    """One step's inputs, of any number of rows."""

    vectors: Tensor  # (B, T, W) float64
    ids: Tensor  # (B, T)
    targets: Tensor  # (B,)

    @classmethod
    def draw(cls, n_rows: int, seed: int) -> "Batch":
        """Make one."""
        random = torch.Generator().manual_seed(seed)
        return cls(
            torch.randn(n_rows, T, W, generator=random, dtype=torch.float64),
            torch.randint(N_TOKENS, (n_rows, T), generator=random),
            torch.randint(N_CLASSES, (n_rows,), generator=random),
        )

    def loss(self, logits: Tensor) -> Tensor:
        """Return the cross entropy, (B,)."""
        return functional.cross_entropy(logits, self.targets, reduction="none")
