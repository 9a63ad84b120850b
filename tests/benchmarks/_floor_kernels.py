"""The ways to the group norms and to the corrected total of a layer, kernel by kernel.

Shapes as in `_floor_layers`, and P entries of a weight.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from tests.benchmarks._floor_layers import Layer, grad_of

Measured = tuple[list[Tensor], list[Tensor]]
"""The largest group's gradients, and norms of the smaller groups' gradients, (S,) each."""


class Part(Protocol):
    """The work for some parameters."""

    def measure(self) -> Measured:
        """Return what is needed for the norm of every group."""

    def correct(self, first: Tensor, others: Tensor) -> None:
        """Make the total ``first`` times itself plus the groups' sums, weighted by ``others``."""


class Bias:
    """The bias of a layer, whose rows are the output gradients themselves."""

    def __init__(self, layer: Layer) -> None:
        self.bias = layer.bias

    def measure(self, grads: Tensor) -> Measured:
        """Take the output gradients of the groups, (S, n * m, d_out)."""
        if self.bias is None:
            return [], []
        self.sums = grads.sum(1)  # (S, d_out)
        return [grad_of(self.bias) - self.sums.sum(0)], [torch.linalg.vector_norm(self.sums, dim=1)]

    def correct(self, first: Tensor, others: Tensor) -> None:
        """As `Part.correct`."""
        if self.bias is not None:
            total = grad_of(self.bias)
            total.addmv_(self.sums.T, others, beta=scaled(total, first))


class Materialised:
    """Each smaller group's gradient, by one batched product."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.bias = layer, Bias(layer)

    def measure(self) -> Measured:
        """See `Part`."""
        inputs, grads = self.layer.rows()
        return self._with_weight(torch.bmm(grads.mT, inputs), self.bias.measure(grads))

    def _with_weight(self, sums: Tensor, of_bias: Measured) -> Measured:
        self.sums = sums.flatten(1)  # (S, P)
        rest = self.layer.total().flatten() - sum_of(self.sums)
        norms = torch.linalg.vector_norm(self.sums, dim=1)
        return [rest, *of_bias[0]], [norms, *of_bias[1]]

    def correct(self, first: Tensor, others: Tensor) -> None:
        """See `Part`."""
        total = self.layer.total().view(-1)
        total.addmv_(self.sums.T, others, beta=scaled(total, first))
        self.bias.correct(first, others)


class ByConvolution(Materialised):
    """Each smaller group's gradient, by torch's own backward pass of a convolution."""

    def measure(self) -> Measured:
        """See `Part`."""
        inputs, grads = self.layer.gathered()
        n_groups = len(self.layer.members.numbers)
        sums = [
            conv2d_weight(x, self.layer.weight.shape, d, *self.layer.convolution)
            for x, d in zip(inputs.chunk(n_groups), grads.chunk(n_groups), strict=True)
        ]
        of_rows = grads.flatten(2).sum(2).view(n_groups, -1, grads.shape[1])
        return self._with_weight(torch.stack(sums), self.bias.measure(of_rows))


class FromRows:
    """No group's gradient: the Gramian of its rows for the norm, scaled rows for the write."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.bias = layer, Bias(layer)

    def measure(self) -> Measured:
        """See `Part`."""
        self.inputs, self.grads = inputs, grads = self.layer.rows()
        products = torch.bmm(inputs, inputs.mT) * torch.bmm(grads, grads.mT)
        norms = products.sum((1, 2)).clamp(min=0).sqrt()
        flat = grads.flatten(0, 1).T, inputs.flatten(0, 1)
        rest = torch.addmm(self.layer.total(), *flat, alpha=-1)
        of_bias = self.bias.measure(grads)
        return [rest, *of_bias[0]], [norms, *of_bias[1]]

    def correct(self, first: Tensor, others: Tensor) -> None:
        """See `Part`."""
        total, grads = self.layer.total(), (self.grads * others[:, None, None]).flatten(0, 1)
        total.addmm_(grads.T, self.inputs.flatten(0, 1), beta=scaled(total, first))
        self.bias.correct(first, others)


class Flat:
    """All layers as one vector: few kernels, where the launch of a kernel is what costs."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.parameters = [
            parameter
            for layer in layers
            for parameter in (layer.weight, layer.bias)
            if parameter is not None
        ]

    def measure(self) -> Measured:
        """See `Part`."""
        pieces = []
        for layer in self.layers:
            inputs, grads = layer.rows()
            pieces.append(torch.bmm(grads.mT, inputs).flatten(1))
            if layer.bias is not None:
                pieces.append(grads.sum(1))
        self.sums = torch.cat(pieces, 1)  # (S, P)
        self.total = torch.cat([grad_of(p).flatten() for p in self.parameters])
        return [self.total - sum_of(self.sums)], [torch.linalg.vector_norm(self.sums, dim=1)]

    def correct(self, first: Tensor, others: Tensor) -> None:
        """See `Part`."""
        self.total.addmv_(self.sums.T, others, beta=scaled(self.total, first))
        split = self.total.split([p.numel() for p in self.parameters])
        for parameter, gradient in zip(self.parameters, split, strict=True):
            parameter.grad = gradient.view_as(parameter)


def sum_of(sums: Tensor) -> Tensor:
    """Add up (S, P) over the groups."""
    return sums[0] if len(sums) == 1 else sums.sum(0)


def scaled(total: Tensor, first: Tensor) -> float:
    """Return by what a total is still to be multiplied: the host knows it only on the CPU."""
    if total.device.type == "cpu":
        return float(first)
    total.mul_(first)
    return 1.0
