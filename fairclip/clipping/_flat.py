"""Many tensors as few vectors: a copy of a small tensor costs less than a call for it."""

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 2**15  # components: they stay in a core's cache from one operation to the next
_PIECE_ON_DEVICE = 2**24  # there a call costs more, and the memory of a copy is the limit


def flat_pieces(values: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one dtype and device a few at a time, large ones as views of their parts."""
    together: list[Tensor] = []
    n_together = 0
    most = PIECE if not values or values[0].is_cpu else _PIECE_ON_DEVICE
    for value in values:
        if value.numel() > most and value.is_contiguous():
            yield from ([part] for part in value.view(-1).split(most))
            continue
        together.append(value)
        n_together += value.numel()
        if n_together >= most:
            yield together
            together, n_together = [], 0
    if together:
        yield together


def copy(piece: list[Tensor]) -> Tensor:
    """Return a copy of all components, (P,)."""
    return flatten(piece).clone() if len(piece) == 1 else flatten(piece)


def flatten(piece: list[Tensor]) -> Tensor:
    """Return all components, (P,); of one contiguous tensor a view, a copy of several."""
    if len(piece) == 1:
        return piece[0].flatten()
    return torch._C._nn.flatten_dense_tensors(piece)


def write(flat: Tensor, piece: list[Tensor]) -> None:
    """Copy the components back into their tensors."""
    views = torch._C._nn.unflatten_dense_tensors(flat, piece)
    torch._foreach_copy_(piece, views)
