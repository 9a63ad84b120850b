"""Instances of every mode, for the tests that hold for all of them."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fairclip.clipping import (
    Centralize,
    Chain,
    ClipRecord,
    Linear,
    MeanStd,
    Mode,
    Momentum,
    Norm,
    Normalize,
    Percentile,
    Scheduled,
    Smoothness,
    Unitwise,
    Update,
    Value,
    Weights,
    ZScore,
)
from fairclip.clipping._mode import OptimizerMode

MODES: dict[str, Mode] = {
    "Value": Value(0.5),
    "Norm": Norm(0.5),
    "Norm of order 1": Norm(0.5, norm_type=1.0),
    "Norm of order inf": Norm(0.5, norm_type=math.inf),
    "Norm of layers": Norm(0.5, scope="layer", overrides={"*.bias": 0.1}),
    "Norm of tensors": Norm(0.5, scope="tensor"),
    "Unitwise": Unitwise(0.1),
    "Percentile": Percentile(50.0, window=3),
    "Percentile of layers": Percentile(50.0, window=3, scope="layer", upper=0.1),
    "MeanStd": MeanStd(1.0, warmup=2),
    "ZScore": ZScore(1.0, warmup=2),
    "ZScore of tensors": ZScore(1.0, warmup=2, scope="tensor", lower=0.01),
    "Normalize": Normalize(0.3),
    "Normalize of tensors": Normalize(0.3, scope="tensor"),
    "Centralize": Centralize(),
    "Scheduled": Scheduled(Norm(1.0), Linear(0.1, 0.5, total_iters=10)),
    "Smoothness": Smoothness(clip_factor=0.5),
    "Chain": Chain(Value(0.5), ZScore(1.0, warmup=2), Norm(0.3)),
}
"""With settings that make each change every gradient of about unit size that `clip` gives it."""

OPTIMIZER_MODES: dict[str, OptimizerMode] = {
    "Momentum": Momentum(0.1),
    "Update": Update(0.1),
    "Weights": Weights(0.1),
}

every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
every_optimizer_mode = pytest.mark.parametrize(
    "mode", OPTIMIZER_MODES.values(), ids=OPTIMIZER_MODES.keys()
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
devices = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]
)

EARLIER = (0.05, 0.07, 0.05, 0.06)
"""How large the gradients of the steps before were, as a share of the present one."""


def clip(mode: Mode, parameters: Any) -> ClipRecord:
    """Clip after a few steps with smaller gradients, so that the modes that remember act too."""
    listed = list(parameters)
    return mode(listed, state_after_some_steps(mode, listed))


def state_after_some_steps(mode: Mode, parameters: Sequence[Any]) -> Any:
    """Return the mode's state after `EARLIER`; the gradients are as they were."""
    state = mode.init(parameters)
    if state is None:
        return None
    tensors = list({id(p): p for p in map(_tensor, parameters)}.values())
    kept = [p.grad for p in tensors]
    try:
        for share in EARLIER:
            for tensor, gradient in zip(tensors, kept, strict=True):
                tensor.grad = None if gradient is None else gradient * share
            mode(parameters, state)
    finally:
        for tensor, gradient in zip(tensors, kept, strict=True):
            tensor.grad = gradient
    return state


def _tensor(item: Any) -> Tensor:
    tensor: Tensor = item[1] if isinstance(item, tuple) else item
    return tensor
