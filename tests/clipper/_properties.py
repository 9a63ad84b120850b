"""The rule worked out from scratch, and what holds of every step. Shapes: B rows, K groups."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from fairclip import FairClipper
from fairclip.trace import StepRecord
from tests.clipper._inputs import COUNTS, Batch, K, make_batches, row_losses
from tests.gradients._oracle import combined, group_gradients, norm


def parts_of(model: nn.Module, batch: Batch, n_groups: int = K) -> list[list[Tensor]]:
    """Every group's and the unknown rows' gradient, in float64 on a copy of the model."""
    exact = copy.deepcopy(model).double()
    inputs, targets, codes = batch
    losses = row_losses(exact, (inputs.double(), targets, codes))
    return group_gradients(exact, losses, codes, n_groups)


def per_step_factors(
    norms: list[float], n_batch: list[int], counts: list[int], ratio: float
) -> Any:
    """Return the literal rule's factors and its reference norm."""
    present = [k for k, n in enumerate(n_batch) if n > 0]
    if not present:
        return [1.0] * len(norms), 0.0
    reference = min(present, key=lambda k: (counts[k], k))
    limit = ratio * norms[reference]
    factors = [
        min(1.0, limit / norms[k]) if k in present and k != reference and norms[k] * limit else 1.0
        for k in range(len(norms))
    ]
    return factors, norms[reference]


def counts_in(codes: Tensor, n_groups: int = K) -> list[int]:
    return [int((codes == k).sum()) for k in range(n_groups)]


def literal(
    model: nn.Module, batch: Batch, ratio: float = 0.5
) -> tuple[list[float], list[float], list[Tensor]]:
    """Return norms, factors and the capped gradient of `NormCap.per_step(ratio)`."""
    parts = parts_of(model, batch)
    norms = [norm(part) for part in parts[:-1]]
    factors, _ = per_step_factors(norms, counts_in(batch[2]), COUNTS, ratio)
    return norms, factors, combined(parts, factors)


def step(clipper: FairClipper, model: nn.Module, batch: Batch) -> StepRecord:
    with clipper.watch(batch[2]):
        row_losses(model, batch).mean().backward()
    return clipper.clip_grad_()


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    """Relative to the norm of what is expected."""
    assert len(found) == len(expected)
    difference = norm([a.double() - b for a, b in zip(found, expected, strict=True)])
    assert difference <= tolerance * max(norm(expected), 1e-30)


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    """Every parameter and buffer, bit for bit."""
    tensors, others = found.state_dict(), expected.state_dict()
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


@contextmanager
def storages_of_outputs(model: nn.Module) -> Iterator[list[StorageWeakRef]]:
    """Collect weak references to the memory of what the modules return."""
    found: list[StorageWeakRef] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        found.extend(StorageWeakRef(t.untyped_storage()) for t in tensors if t is not None)

    handles = [module.register_forward_hook(keep) for module in model.children()]
    yield found
    for handle in handles:
        handle.remove()


@contextmanager
def hooks_unchanged(model: nn.Module) -> Iterator[None]:
    def hooks() -> list[list[int]]:
        return [
            [len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)]
            for m in model.modules()
        ]

    before = hooks()
    yield
    assert hooks() == before


# ------------------------------------------------------------------ weighed steps


def weighed_step(clipper: FairClipper, model: nn.Module, batch: Batch) -> StepRecord:
    clipper.weigh(row_losses(model, batch), batch[2]).mean().backward()
    return clipper.clip_grad_()


def warm(clipper: FairClipper, model: nn.Module, n_steps: int = 2) -> None:
    """Take the steps until factors are known: the second one is measured."""
    for batch in make_batches(n_steps, seed=99, dtype=next(model.parameters()).dtype):
        weighed_step(clipper, model, batch)
        model.zero_grad()


def is_measured(record: StepRecord) -> bool:
    return bool(record.group_norms.isfinite().any())
