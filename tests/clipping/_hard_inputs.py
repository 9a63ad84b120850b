"""Gradients that are hard to measure, and parameters with names for them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tests.clipping._inputs import BANK, parameters

Make = Callable[[], list[Tensor | None]]


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return components that every dtype can hold exactly."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).bfloat16().float()


def _one_spike() -> list[Tensor | None]:
    spike = torch.zeros(20, 30)
    spike[7, 11] = -1e4
    return [spike, torch.full((3,), 1e-3)]


HARD: dict[str, Make] = BANK | {
    "four dtypes": lambda: [
        noise(3, 4).to(dtype)
        for dtype in (torch.bfloat16, torch.float64, torch.float16, torch.float32)
    ],
    "10^15": lambda: [1e15 * noise(3, 4), -1e15 * torch.ones(2)],
    "10^-15": lambda: [1e-15 * noise(3, 4), 1e-15 * torch.ones(2)],
    "subnormal": lambda: [1e-40 * noise(3, 4), torch.full((2,), 1e-45)],
    "one spike": _one_spike,
    "many": lambda: [noise(2, 3, seed=i) for i in range(300)],
    "slices": lambda: [noise(6, 8)[::2, 1::3], noise(4, 4, 3).permute(2, 0, 1)],
    "a large one": lambda: [noise(200, 201).double(), noise(5).double()],
}


def named(values: Sequence[Tensor | None], device: str = "cpu") -> dict[str, Tensor]:
    """Return one parameter for each gradient, two in each layer."""
    made: dict[str, Tensor] = {}
    for i, parameter in enumerate(parameters(values)):
        moved = nn.Parameter(parameter.detach().to(device))
        gradient = values[i]
        moved.grad = None if gradient is None else copy_of(gradient, device)
        made[f"layer{i // 2}.{'weight' if i % 2 else 'bias'}"] = moved
    return made


def copy_of(tensor: Tensor, device: str) -> Tensor:
    """Return a copy with the same strides, also those of a slice."""
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return made.copy_(tensor)
