"""The layers that multiply by a weight, and the weights' fans."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

WEIGHTED = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def is_convolution(module: nn.Module) -> bool:
    """Say whether features are on dimension 1."""
    return isinstance(module, _ConvNd)


def n_gates(module: nn.Module) -> int:
    """Return how many matrices are stacked in the rows of a weight."""
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return 4
    return 3 if isinstance(module, nn.GRU | nn.GRUCell | nn.MultiheadAttention) else 1


def own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return its parameters without those of submodules, but with what its weights are made of."""
    held: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    if is_parametrized(module):
        made_of: Any = module.parametrizations
        held |= made_of.named_parameters("parametrizations")
    return held


def weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield its parameters and those that it makes of others, as they are used."""
    yield from module.named_parameters(recurse=False)
    if is_parametrized(module):
        made: Any = module.parametrizations
        yield from ((name, getattr(module, name)) for name in made)


def input_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that multiply the inputs; recurrent ones have other rules."""
    if isinstance(module, WEIGHTED):
        for name, p in weights(module):
            if p.requires_grad and p.dim() >= 2 and not name.startswith(("weight_hh", "weight_hr")):
                yield name, p


def fans(weight: Tensor, gates: int) -> tuple[float, float]:
    """Return how many inputs an output has, and how many outputs an input."""
    field = weight[0, 0].numel()
    return weight.shape[1] * field, weight.shape[0] / gates * field
