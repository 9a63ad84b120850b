"""Dot products between a gradient and the sums that are parts of it. Shapes: S slots.

They are (1 + S, 1 + S) float64, in the host's memory where the gradients are: first the base (the
whole gradient, or the part that is got by subtraction), then the slots.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fairclip._arrays import Array, as_array
from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import Slots

_PIECE = 2**16  # entries
_LONG_PIECE = 2**19


def zeros(n_slots: int, device: torch.device) -> Array:
    """Return the products of nothing."""
    return as_array(torch.zeros(1 + n_slots, 1 + n_slots, dtype=torch.float64, device=device))


def of_flat(rows: Tensor) -> Array:
    """Return those between the rows (n, P), as float32 where they fit into one piece."""
    if rows.dtype.itemsize < 4:
        rows = rows.float()
    # In pieces: float32 sums over more entries are off by 1e-6 and more.
    n_whole = rows.shape[1] // _PIECE
    if n_whole == 0:
        return as_array(rows @ rows.T)
    pieces = rows[:, : n_whole * _PIECE].unflatten(1, (n_whole, _PIECE)).transpose(0, 1)
    gramian = torch.bmm(pieces, pieces.transpose(1, 2)).double().sum(0)
    rest = rows[:, n_whole * _PIECE :]
    return as_array(gramian + rest @ rest.T if rest.shape[1] else gramian)


def of_dense(base: Tensor, sums: Tensor) -> Array:
    """Return those between ``base`` (*shape) and ``sums`` (S, *shape), of which none is copied."""
    if base.dtype.itemsize < 4:
        base, sums = base.float(), sums.float()
    found = zeros(len(sums), base.device)
    pieces = base.reshape(-1).split(_LONG_PIECE), sums.flatten(1).split(_LONG_PIECE, 1)
    for b, g in zip(*pieces, strict=True):
        along = as_array(g @ b)
        found[0, 0] += as_array(torch.dot(b, b))
        found[0, 1:] += along
        found[1:, 0] += along
        found[1:, 1:] += as_array(torch.dot(g[0], g[0])) if len(g) == 1 else of_flat(g)
    return found


def of_outer(
    layers: Iterable[tuple[Outer, Tensor, Tensor | None]], slots: Slots
) -> tuple[Array, Array]:
    """Return those between rows and the whole gradients of their weight and bias.

    Also, for each square on the diagonal, the sum of the absolute values of its terms, (1 + S,).
    """
    between: dict[int, Tensor] = {}  # by the number of rows M: (M, M)
    along: dict[int, Tensor] = {}  # (M,)
    squares = 0.0
    for outer, weight, bias in layers:
        n_rows = len(outer.grads)
        of_rows, of_base = outer.gramian(), outer.along(weight, bias)
        between[n_rows] = between[n_rows].add_(of_rows) if n_rows in between else of_rows
        along[n_rows] = along[n_rows].add_(of_base) if n_rows in along else of_base
        for base in (weight,) if bias is None else (weight, bias):
            for piece in base.reshape(-1).split(_LONG_PIECE):
                squares = squares + as_array(torch.dot(piece, piece))
    found = zeros(len(slots.parts), slots.index.device)
    terms = found[0] * 0
    found[0, 0] += squares
    terms[0] += squares
    for n_rows, products in between.items():
        by_slot = as_array(slots.sums(along[n_rows]))
        found[0, 1:] += by_slot
        found[1:, 0] += by_slot
        found[1:, 1:] += as_array(slots.sums(slots.sums(products).T))
        sizes = as_array(slots.sums(slots.sums(products.abs_()).T))
        terms[0] += 2 * as_array(along[n_rows].abs().sum()) + sizes.sum()
        terms[1:] += sizes.diagonal()
    return found, terms
