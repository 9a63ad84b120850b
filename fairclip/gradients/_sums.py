"""What each group's rows caused in a batch's gradient. Shapes: K groups, L layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fairclip.gradients._rows import to_device

_SMALL = 2**16  # entries, below which float64 costs nothing


@dataclass(slots=True)
class GroupGradients:
    r"""The contributions of K groups to the gradient of every parameter.

    .. math:: t = \sum_k g_k + u

    One of the parts :math:`g_0, ..., g_{K-1}, u` is known by subtraction only (``rest``), the
    others are held. Part number K is :math:`u`: what rows of no known group and what no row at all
    caused.

    Args:
        totals: The gradients :math:`t`, one tensor a parameter or all of them in one.
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

    def row_counts(self) -> Tensor:
        """Return the rows of each group, (K,) int64, on the gradients' device."""
        return to_device(torch.tensor(self.counts[:-1]), self.totals[0].device)

    def part(self, k: int) -> list[Tensor]:
        """Return one part, one tensor a parameter."""
        if k != self.rest:
            return self.sums[k]
        tensors = self.totals
        for held in self.sums.values():
            tensors = list(torch._foreach_sub(tensors, held))
        return tensors

    def gramian(self) -> Tensor:
        r"""Return the dot products between all parts, (K + 1, K + 1), or (L, K + 1, K + 1).

        float64. 0 for parts without rows, unless such a part is got by subtraction. To be called
        before `recombine_`.
        """
        n_parts = len(self.counts)
        present = sorted({*self.sums, self.rest})
        parts = [self.part(k) for k in present]
        grams = [_gram(tensors) for tensors in zip(*parts, strict=True)]
        gramian = torch.stack(grams) if len(grams) > 1 else grams[0][None]
        if present == list(range(n_parts - 1)):
            gramian = torch.nn.functional.pad(gramian, (0, 1, 0, 1))
        elif len(present) < n_parts:
            index = to_device(torch.tensor(present), gramian.device)
            rows = gramian.new_zeros(len(grams), n_parts, len(present))
            rows.index_copy_(1, index, gramian)
            gramian = rows.new_zeros(len(grams), n_parts, n_parts).index_copy_(2, index, rows)
        if self.layers is None:
            return gramian.sum(0) if len(grams) > 1 else gramian[0]
        layers = gramian.split_with_sizes(list(self.layers.values()))
        return torch.stack([layer.sum(0) for layer in layers])

    def recombine_(self, factors: Tensor) -> None:
        r"""Make the total :math:`\sum_k f_k g_k + u`, for factors (K,) or (L, K).

        Where no present group's factor differs from 1 it is left bit for bit.
        """
        recombine = _recombine_on_host if factors.device.type == "cpu" else _recombine_on_device
        present = [k for k in range(factors.shape[-1]) if self.counts[k]]
        if factors.ndim == 1 or self.layers is None:
            recombine(self.totals, self.sums, factors, present, self.rest)
            return
        sizes = self.layers.values()
        for size, stop, of_layer in zip(sizes, accumulate(sizes), factors.unbind(), strict=True):
            chosen = slice(stop - size, stop)
            sums = {k: tensors[chosen] for k, tensors in self.sums.items()}
            if size:
                recombine(self.totals[chosen], sums, of_layer, present, self.rest)


def _gram(tensors: Sequence[Tensor]) -> Tensor:
    """Return the dot products between tensors of one shape, (n, n) float64."""
    rows = torch.stack([tensor.flatten() for tensor in tensors])
    if rows[0].numel() <= _SMALL:
        rows = rows.double()
    elif rows.dtype.itemsize < 4:
        rows = rows.float()
    return (rows @ rows.T).double()


def _recombine_on_host(
    totals: list[Tensor],
    sums: dict[int, list[Tensor]],
    factors: Tensor,
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
    factors: Tensor,
    present: Sequence[int],
    rest: int,
) -> None:
    values = [*factors.unbind(), torch.ones_like(factors[0])]
    differs = torch.stack([values[k] != 1.0 for k in present]).any()
    combined = torch._foreach_mul(totals, values[rest])
    for k, tensors in sums.items():
        torch._foreach_add_(combined, torch._foreach_mul(tensors, values[k] - values[rest]))
    # Written always, chosen on the device: to ask it which would mean to wait for it.
    for total, new in zip(totals, combined, strict=True):
        total.copy_(torch.where(differs, new, total))
