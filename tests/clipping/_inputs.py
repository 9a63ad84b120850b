"""Lists of parameters with gradients that are hard to clip."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

SHAPES = ((4, 3), (4,), (2, 4), (2,), (1,))


def parameters(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Return one parameter for each gradient; None leaves it without."""
    made: list[Tensor] = []
    for gradient in gradients:
        if gradient is None:
            made.append(nn.Parameter(torch.ones(2)))
            continue
        parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
        parameter.grad = gradient.clone()
        made.append(parameter)
    return made


def _random(scale: float, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(s, generator=generator)).to(dtype) for s in SHAPES]


def _rank_one() -> list[Tensor | None]:
    return [torch.outer(torch.arange(1.0, 5.0), torch.tensor([1.0, -2.0])), torch.ones(3)]


def _mixed_dtypes() -> list[Tensor | None]:
    return [torch.full((3,), 2.0), torch.full((2,), -3.0, dtype=torch.float64)]


BANK: dict[str, Callable[[], list[Tensor | None]]] = {
    "random": lambda: _random(1.0),
    "tiny": lambda: _random(1e-6),
    "huge": lambda: _random(1e6),
    "float64": lambda: _random(1.0, torch.float64),
    "float16": lambda: _random(1.0, torch.float16),
    "bfloat16": lambda: _random(1.0, torch.bfloat16),
    "mixed dtypes": _mixed_dtypes,
    "zero": lambda: [torch.zeros(3, 2), torch.zeros(4)],
    "one zero tensor": lambda: [torch.zeros(3), torch.ones(2)],
    "rank 1": _rank_one,
    "one element": lambda: [torch.tensor([-7.0])],
    "a scalar": lambda: [torch.tensor(5.0)],
    "no elements": lambda: [torch.zeros(0, 3), torch.ones(2)],
    "one without a gradient": lambda: [torch.ones(2), None, torch.ones(3)],
    "not contiguous": lambda: [torch.arange(6.0).reshape(2, 3).T, torch.ones(3)],
}
"""What every list must survive; each call makes new tensors."""

EXACT = [name for name in BANK if name not in ("float16", "bfloat16")]
"""Where the modes must equal torch bit for bit."""


def layers() -> dict[str, Tensor]:
    """Return six named parameters in three layers; the norm of layer i is 5 * 10**i."""
    named: dict[str, Tensor] = {}
    for i, layer in enumerate(("embed", "block.0", "head")):
        weight, bias = parameters([torch.tensor([3.0 * 10**i]), torch.tensor([4.0 * 10**i])])
        named[f"{layer}.weight"], named[f"{layer}.bias"] = weight, bias
    return named
