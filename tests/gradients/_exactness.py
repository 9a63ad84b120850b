"""Whether a model is measured exactly, step by step. Shapes: B rows, K groups."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._oracle import combined, group_gradients, norm

K = 3
FACTORS = [0.5, 1.0, 0.125]

Losses = Callable[[nn.Module, int], Tensor]
"""From a model and the number of the step to per-row losses, (B,) or (B, T)."""


def mean(losses: Tensor) -> None:
    losses.mean().backward()


def assert_exact(
    model: nn.Module,
    losses_of: Losses,
    codes: Sequence[Tensor],
    *,
    tolerance: float = 1e-9,
    backward: Callable[[Tensor], None] = mean,
    oracle: Losses | None = None,
    before_step: Callable[[nn.Module, int], None] = lambda _model, _step: None,
    **options: Any,
) -> list[str]:
    """Compare every step with one backward pass a group; return what was warned of.

    Norms and a recombination, relative to max(||t||, max_k N_k). The model's buffers and the random
    numbers must be as after one forward pass.
    """
    engine = GradientEngine(model, K, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, of_step in enumerate(codes):
            before_step(model, step)
            model.zero_grad()
            before = [b.clone() for b in model.buffers()], torch.get_rng_state()
            losses = (oracle or losses_of)(model, step).flatten()
            parts = group_gradients(model, losses, of_step.flatten(), K)
            after = [b.clone() for b in model.buffers()], torch.get_rng_state()
            restore(model, *before)
            with engine.watch(of_step):
                backward(losses_of(model, step))
            assert torch.equal(torch.get_rng_state(), after[1])
            assert all(map(torch.equal, model.buffers(), after[0]))
            assert_step(engine, model, parts, tolerance)
    engine.remove()
    foreign = [w for w in caught if not issubclass(w.category, FairclipWarning)]
    assert not foreign, foreign
    return [str(w.message) for w in caught]


def assert_step(
    engine: GradientEngine, model: nn.Module, parts: list[list[Tensor]], tolerance: float
) -> None:
    """Compare the norms, the Gramian's symmetry of t, and a recombination."""
    norms = [norm(part) for part in parts[:-1]]
    scale = max(norm(combined(parts, [1.0] * K)), *norms)
    found = engine.collect()
    measured = np.sqrt(np.diagonal(np.asarray(found.gramian())))[:-1]
    np.testing.assert_allclose(measured, norms, rtol=0, atol=tolerance * scale)
    found.recombine_(np.array(FACTORS))
    grads = [
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in model.parameters()
        if p.requires_grad
    ]
    off = norm([a - b for a, b in zip(combined(parts, FACTORS), grads, strict=True)])
    assert off <= tolerance * scale


def restore(model: nn.Module, buffers: Sequence[Tensor], random_state: Tensor) -> None:
    """Put back what a forward pass changes."""
    with torch.no_grad():
        for buffer, held in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(held)
    torch.set_rng_state(random_state)
