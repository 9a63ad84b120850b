"""Whether a model is measured exactly, step by step. Shapes: B rows, K groups."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._oracle import combined, group_gradients, norm

K = 3
FACTORS = [0.5, 1.0, 3.0]

Losses = Callable[[nn.Module, int], Tensor]
"""From a model and the number of the step to per-row losses, (B,) or (B, T)."""

Penalty = Callable[[nn.Module, int], Tensor]
"""From a model and the number of the step to a scalar that depends on no row."""


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build the same model each time, in float64."""
    torch.manual_seed(0)
    return build().double()


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
    penalty: Penalty | None = None,
    before_step: Callable[[nn.Module, int], None] = lambda _model, _step: None,
    **options: Any,
) -> list[str]:
    """Compare every step with one backward pass a group in float64; return what was warned of.

    Norms and a recombination, relative to max(||t||, max_k N_k). The model's buffers and the random
    numbers must be as after one forward pass.
    """
    engine = GradientEngine(model, K, **options)
    is_exact = next(model.parameters()).dtype == torch.float64
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FairclipWarning)  # any other is an error
        for step, of_step in enumerate(codes):
            before_step(model, step)
            model.zero_grad()
            exact = model if is_exact else copy.deepcopy(model).double()
            before = [b.clone() for b in model.buffers()], torch.get_rng_state()
            losses = (oracle or losses_of)(exact, step).flatten()
            parts = group_gradients(exact, losses, of_step.flatten(), K)
            if penalty is not None:
                add_to_unknown(parts, exact, penalty(exact, step))
            after = [b.clone() for b in exact.buffers()], torch.get_rng_state()
            restore(model, *before)
            with engine.watch(of_step):
                losses = losses_of(model, step)
                backward(losses if penalty is None else losses + penalty(model, step))
            assert torch.equal(torch.get_rng_state(), after[1])
            if is_exact:
                assert all(map(torch.equal, model.buffers(), after[0]))
            assert_step(engine, model, parts, tolerance)
    engine.remove()
    return [str(w.message) for w in caught]


def assert_step(
    engine: GradientEngine, model: nn.Module, parts: list[list[Tensor]], tolerance: float = 1e-9
) -> None:
    """Compare the norms and a recombination."""
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


def assert_next_step(
    engine: GradientEngine,
    model: nn.Module,
    losses_of: Losses,
    codes: Tensor,
    *,
    step: int = 0,
    how: Literal["watch", "backward"] = "watch",
) -> None:
    """Compare one step, whatever came before it."""
    model.zero_grad()
    parts = group_gradients(model, losses_of(model, step).flatten(), codes.flatten(), K)
    if how == "watch":
        with engine.watch(codes):
            losses_of(model, step).mean().backward()
    else:
        engine.backward(losses_of(model, step), codes)
    assert_step(engine, model, parts)


def add_to_unknown(parts: list[list[Tensor]], model: nn.Module, penalty: Tensor) -> None:
    """Count what comes from no row with what comes from the unknown rows."""
    if not penalty.requires_grad:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
    for tensor, grad in zip(parts[-1], grads, strict=True):
        tensor += grad


def restore(model: nn.Module, buffers: Sequence[Tensor], random_state: Tensor) -> None:
    """Put back what a forward pass changes."""
    with torch.no_grad():
        for buffer, held in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(held)
    torch.set_rng_state(random_state)
