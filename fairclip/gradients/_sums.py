"""What each group's rows caused in a batch's gradient. Shapes: K groups, L layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from fairclip.gradients._rows import to_device

Array = Tensor | np.ndarray
"""A small array: numpy where the gradients are on the CPU, where a call of torch takes as long as
several of numpy, and a tensor on their device elsewhere, never read by the host."""

_SMALL = 2**16  # entries
_PIECE = 2**16  # entries


@dataclass(slots=True)
class GroupGradients:
    r"""The contributions of K groups to the gradient of every parameter.

    .. math:: t = \sum_k g_k + u

    One of the parts :math:`g_0, ..., g_{K-1}, u` is known by subtraction only (``rest``), the
    others are held. Part number K is :math:`u`: what rows of no known group and what no row at all
    caused.

    Args:
        totals: The gradients :math:`t`, one tensor a parameter; `recombine_` writes into them.
        sums: For each held part that has rows, tensors like ``totals``.
        rest: The part that is known by subtraction.
        counts: Rows of each part, (K + 1,).
        layers: How many of the tensors are of each layer (a parameter's name up to its last dot),
            in their order; None where layers are not told apart.
    """

    totals: list[Tensor]
    sums: dict[int, list[Tensor]]
    rest: int
    counts: tuple[int, ...]
    layers: dict[str, int] | None

    def part(self, k: int) -> list[Tensor]:
        """Return one part, one tensor a parameter."""
        if k != self.rest:
            return self.sums[k]
        tensors = self.totals
        for held in self.sums.values():
            tensors = list(torch._foreach_sub(tensors, held))
        return tensors

    def row_counts(self) -> Array:
        """Return the rows of each group, (K,) int64."""
        if self._on_host:
            return np.array(self.counts[:-1])
        return to_device(torch.tensor(self.counts[:-1]), self.totals[0].device)

    def gramian(self) -> Array:
        r"""Return the dot products between all parts, (K + 1, K + 1), or (L, K + 1, K + 1).

        float64. 0 for parts without rows, unless such a part is got by subtraction. To be called
        before `recombine_`.
        """
        parts, size = [self.rest, *self.sums], len(self.counts)
        if self.layers is None and _is_small(self.totals):
            held = [t for tensors in (self.totals, *self.sums.values()) for t in tensors]
            rows = torch._C._nn.flatten_dense_tensors(held).view(len(parts), -1)
            rest, *others = rows.unbind()
            for other in others:
                rest.sub_(other)
            gramian = _gram(rows)
        else:
            by_part = [self.part(k) for k in parts]
            by_tensor = [
                _gram(torch.stack([t.flatten() for t in tensors]))
                for tensors in zip(*by_part, strict=True)
            ]
            sizes = [len(by_tensor)] if self.layers is None else list(self.layers.values())
            by_layer = torch.stack(by_tensor).split_with_sizes(sizes)
            gramian = torch.stack([layer.sum(0) for layer in by_layer])
            gramian = gramian[0] if self.layers is None else gramian
        if self._on_host:
            placed = np.zeros((*gramian.shape[:-2], size, size))
            if parts == [*range(len(parts))]:
                placed[..., : len(parts), : len(parts)] = gramian.numpy()
            else:
                chosen = np.array(parts)
                placed[..., chosen[:, None], chosen] = gramian.numpy()
            return placed
        index = to_device(torch.tensor(parts), gramian.device)
        rows = gramian.new_zeros(*gramian.shape[:-2], size, len(parts))
        rows.index_copy_(-2, index, gramian)
        return rows.new_zeros(*gramian.shape[:-2], size, size).index_copy_(-1, index, rows)

    def recombine_(self, factors: Array) -> None:
        r"""Make the total :math:`\sum_k f_k g_k + u`, for factors (K,) or (L, K).

        Where no present group's factor differs from 1 it is left bit for bit.
        """
        present = [k for k, count in enumerate(self.counts[:-1]) if count]
        recombine = _recombine_on_host if self._on_host else _recombine_on_device
        if factors.ndim == 1 or self.layers is None:
            recombine(self.totals, self.sums, factors, present, self.rest)
            return
        sizes = self.layers.values()
        for size, stop, of_layer in zip(sizes, accumulate(sizes), factors, strict=True):
            chosen = slice(stop - size, stop)
            sums = {k: tensors[chosen] for k, tensors in self.sums.items()}
            if size:
                recombine(self.totals[chosen], sums, of_layer, present, self.rest)

    @property
    def _on_host(self) -> bool:
        return self.totals[0].device.type == "cpu"


def _is_small(tensors: Sequence[Tensor]) -> bool:
    """Say whether a copy of everything costs less than a call for each tensor."""
    dtype = tensors[0].dtype
    return sum([t.numel() if t.dtype == dtype else _SMALL for t in tensors]) < _SMALL


def _gram(rows: Tensor) -> Tensor:
    """Return the dot products between the rows (n, P), (n, n) float64."""
    if rows.dtype.itemsize < 4:
        rows = rows.float()
    if rows.shape[1] <= _PIECE:
        return (rows @ rows.T).double()
    # In pieces: float32 sums over more entries are off by 1e-6 and more.
    return torch.stack([(piece @ piece.T).double() for piece in rows.split(_PIECE, 1)]).sum(0)


def _recombine_on_host(
    totals: list[Tensor],
    sums: dict[int, list[Tensor]],
    factors: Array,
    present: Sequence[int],
    rest: int,
) -> None:
    values = [*factors.tolist(), 1.0]
    if all(values[k] == 1.0 for k in present):
        return
    if values[rest] != 1.0:
        torch._foreach_mul_(totals, values[rest])
    for k, tensors in sums.items():
        if values[k] != values[rest]:
            torch._foreach_add_(totals, tensors, alpha=values[k] - values[rest])


def _recombine_on_device(
    totals: list[Tensor],
    sums: dict[int, list[Tensor]],
    factors: Array,
    present: Sequence[int],
    rest: int,
) -> None:
    values = [*torch.as_tensor(factors).unbind(), torch.ones_like(factors[0])]
    differs = torch.stack([values[k] != 1.0 for k in present]).any()
    combined = torch._foreach_mul(totals, values[rest])
    for k, tensors in sums.items():
        torch._foreach_add_(combined, torch._foreach_mul(tensors, values[k] - values[rest]))
    # Written always, chosen on the device: to ask it which would mean to wait for it.
    for total, new in zip(totals, combined, strict=True):
        total.copy_(torch.where(differs, new, total))
