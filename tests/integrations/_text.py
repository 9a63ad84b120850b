"""Generated text of two groups, and tiny models that learn it. Shapes: N rows, T tokens."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset

from fairclip import FairClipper, NormCap, with_groups
from tests.gradients._inputs import N_CLASSES, N_TOKENS
from tests.gradients._real_models import bert, gpt2, t5

N, T = 28, 6
CODES = (torch.arange(N) % 4 == 3).long()  # one row in four
Rows = Dataset[dict[str, Tensor]]


def sequences() -> Tensor:
    """Count up by 1 in group 0, by 2 in the other, from anywhere, (N, T)."""
    starts = torch.randint(N_TOKENS, (N,), generator=torch.Generator().manual_seed(0))
    return (starts[:, None] + torch.arange(T) * (CODES[:, None] + 1)) % N_TOKENS


def _rows(**columns: Tensor) -> Rows:
    rows: Any = [
        dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]
    return with_groups(rows, CODES)


def classified() -> Rows:
    ids = sequences()
    return _rows(input_ids=ids, labels=(ids[:, 0] + CODES) % N_CLASSES)


def continued() -> Rows:
    """The first one to three tokens count for nothing, so that rows differ in how many do."""
    ids = sequences()
    is_silent = torch.arange(T) <= (torch.arange(N) % 3)[:, None]
    return _rows(input_ids=ids, labels=ids.masked_fill(is_silent, -100))


class Bag(nn.Module):
    """A classifier of no library: it takes no arguments for its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(N_TOKENS, 8)
        self.head = nn.Linear(8, N_CLASSES)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits: Tensor = self.head(torch.tanh(self.table(input_ids)).mean(1))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Rows]]] = {
    "bert": (bert, classified),
    "gpt2": (gpt2, continued),
    "t5": (lambda: t5(use_cache=False), continued),
    "bag": (Bag, classified),
}


def make(name: str) -> nn.Module:
    """Return a model, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name][0]()


def clipper_of(model: nn.Module, max_ratio: float = 0.25, **options: Any) -> FairClipper:
    """A cap that acts in every step."""
    cap = NormCap(max_ratio=max_ratio, floor=0.0, min_reference_rows=1)
    return FairClipper(model, cap, group_counts=CODES.bincount(), **options)


def noting_sgd(model: nn.Module, lr: float = 0.1) -> tuple[SGD, list[list[Tensor]]]:
    """Return an optimizer, and the gradients that its steps will have met."""
    steps: list[list[Tensor]] = []

    def note(optimizer: Optimizer, *_: Any) -> None:
        steps.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    optimizer = SGD(model.parameters(), lr=lr)
    optimizer.register_step_pre_hook(note)
    return optimizer, steps


def assert_same_steps(
    found: list[list[Tensor]], expected: list[list[Tensor]], rtol: float = 1e-5
) -> None:
    assert len(found) == len(expected) > 1
    for step, right in zip(found, expected, strict=True):
        size = max(float(g.norm()) for g in right)
        assert size > 0
        for a, b in zip(step, right, strict=True):
            assert float((a - b).abs().max()) <= rtol * size


def forget_accelerators() -> None:
    """Reset what Accelerate shares between all accelerators of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
