"""Models and batches of one step, and clippers that lag. Shapes: B rows, K groups."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, NormCap

COUNTS = [600, 250, 150]
K = len(COUNTS)
Batch = tuple[Tensor, Tensor, Tensor]  # inputs (B, 4), targets (B,), codes (B,)


def mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def conv_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.GroupNorm(1, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).to(dtype)


class Delta(nn.Module):
    """Autograd gives one tensor object for the gradient of both parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Parameter(torch.randn(3, 4))
        self.delta = nn.Parameter(torch.zeros(3, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.base + self.delta)


def make_batches(
    n_steps: int,
    *,
    seed: int = 0,
    n_groups: int = K,
    n_rows: int = 16,
    dtype: torch.dtype = torch.float64,
) -> list[Batch]:
    """Batches with unknown rows and, in most of them, an absent group."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n_steps):
        draws = torch.rand(n_rows, generator=random)
        codes = (n_groups * draws**2).long()  # the first group is the largest
        codes = torch.where(torch.rand(n_rows, generator=random) < 0.1, -1, codes)
        absent = int(torch.randint(-1, n_groups, (), generator=random))
        codes = torch.where(codes == absent, (absent + 1) % n_groups, codes)
        inputs = torch.randn(n_rows, 4, generator=random, dtype=torch.float64)
        inputs = inputs * (n_groups - codes[:, None])  # so that norms differ
        found.append((inputs.to(dtype), torch.randint(3, (n_rows,), generator=random), codes))
    return found


def row_losses(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


LAGGED_CAP = NormCap(max_ratio=0.5, floor=0.0)
EVERY = 3


def lagged(model: nn.Module, cap: NormCap = LAGGED_CAP, **options: Any) -> FairClipper:
    """Make a clipper for `weigh`; its second step is measured, and every third after it."""
    return FairClipper(model, cap, **{"group_counts": COUNTS, "measure_every": EVERY, **options})
