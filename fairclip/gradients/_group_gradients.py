"""What each group's rows caused in a batch's gradient. Shapes: K groups, L layers, S slots."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import Array, on_host, placed, to_device
from fairclip.gradients._block import Block
from fairclip.gradients._sums import Sums


class GroupGradients:
    r"""The contributions of K groups to the gradient of every parameter.

    .. math:: t = \sum_k g_k + u

    One of the parts :math:`g_0, ..., g_{K-1}, u` is known by subtraction only (``rest``), the
    others are held. Part number K is :math:`u`: what rows of no known group and what no row at all
    caused.

    Args:
        totals: The gradients :math:`t`, by name; `recombine_` writes into them.
        sums: The held parts, each one that has rows.
        rest: The part that is known by subtraction.
        counts: Rows of each part, (K + 1,).
        layers: The parameters of each layer (a parameter's name up to its last dot), in order;
            None where layers are not told apart.
    """

    def __init__(
        self,
        totals: Mapping[str, Tensor],
        sums: Sums,
        rest: int,
        counts: Sequence[int],
        layers: Mapping[str, Sequence[str]] | None,
    ) -> None:
        self.rest = rest
        self.counts = tuple(counts)
        self.layers = None if layers is None else tuple(layers)
        self.totals = list(totals.values())
        self._parts = (rest, *sums.slots.parts)
        self._device = self.totals[0].device
        by_layer = [list(totals)] if layers is None else layers.values()
        self._blocks = [
            Block({name: totals[name] for name in names}, sums) if names else None
            for names in by_layer
        ]

    def row_counts(self) -> Array:
        """Return the rows of each group, (K,) int64."""
        return placed(np.array(self.counts[:-1]), self._device)

    def gramian(self) -> Array:
        r"""Return the dot products between all parts, (K + 1, K + 1), or (L, K + 1, K + 1).

        float64. 0 for parts without rows, unless such a part is got by subtraction. To be called
        before `recombine_`.
        """
        found = [None if block is None else block.gramian() for block in self._blocks]
        gramian = [self._placed(products) for products in found]
        if self.layers is None:
            return gramian[0]
        return np.stack(gramian) if self._on_host else torch.stack(gramian)

    def recombine_(self, factors: Array) -> None:
        r"""Make the total :math:`\sum_k f_k g_k + u`, for factors (K,) or (L, K).

        Where no present group's factor differs from 1 it is left bit for bit.
        """
        by_block = [factors] * len(self._blocks) if factors.ndim == 1 else factors
        for block, of_block in zip(self._blocks, by_block, strict=True):
            if block is None:
                continue
            if self._on_host:
                values = [*of_block.tolist(), 1.0]
                block.recombine_on_host_(values[self.rest], [values[k] for k in self._parts[1:]])
            else:
                of_all = torch.cat((of_block, torch.ones_like(of_block[:1])))
                of_parts = of_all.index_select(0, self._index)
                block.recombine_on_device_(of_parts[0], of_parts[1:])

    def _placed(self, products: Array | None) -> Array:
        """Return the products (1 + S, 1 + S) where their parts belong, (K + 1, K + 1)."""
        size = len(self.counts)
        if self._on_host:
            placed = np.zeros((size, size))
            if products is not None:
                parts = np.array(self._parts)
                placed[parts[:, None], parts] = products
            return placed
        zeros = torch.zeros(size, size, dtype=torch.float64, device=self._device)
        if products is None:
            return zeros
        rows = zeros[:, : len(self._parts)].index_copy(0, self._index, products.double())
        return zeros.index_copy(1, self._index, rows)

    @property
    def _index(self) -> Tensor:
        """The number of each held part, the rest first, on the device."""
        return to_device(torch.tensor(self._parts), self._device)

    @property
    def _on_host(self) -> bool:
        return on_host(self._device)
