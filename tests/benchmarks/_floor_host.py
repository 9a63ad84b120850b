"""The floor of small models on a CPU: numpy, whose calls take less time to start than torch's.

Shapes as in `_floor_layers`, and P parameters.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import numpy as np
import torch

from tests.benchmarks._floor_layers import Layer, grad_of
from tests.benchmarks._step_arms import MAX_RATIO


class OnHost:
    """The cap of Linear layers without tokens, all of them as one vector a group."""

    def __init__(self, layers: Sequence[Layer], compared: int) -> None:
        numbers, is_row = layers[0].members.numbers, layers[0].members.is_row
        sizes = [numbers.shape[1]] * len(numbers) if is_row is None else is_row.sum(1).tolist()
        stops = np.cumsum([0, *sizes])
        self.index = (numbers.flatten() if is_row is None else numbers[is_row]).numpy()
        self.starts, self.ranges = stops[:-1], [slice(a, b) for a, b in pairwise(stops)]
        self.compared = compared
        self.parameters = [
            p for layer in layers for p in (layer.weight, layer.bias) if p is not None
        ]
        self.sizes = [p.numel() for p in self.parameters]
        self.sums = np.empty((len(numbers), sum(self.sizes)), np.float32)  # (S, P)
        self.total = np.empty(sum(self.sizes), np.float32)
        self.layers = []
        offset = 0
        for layer in layers:
            shape, n_weights = layer.weight.shape, layer.weight.numel()
            weights = self.sums[:, offset : offset + n_weights]
            offset += n_weights
            biases = self.sums[:, offset : offset + shape[0]]
            offset += shape[0]
            self.layers.append(
                (
                    layer.inputs.numpy(),
                    layer.grads.numpy(),
                    [w.reshape(shape) for w in weights],
                    biases,
                )
            )

    @staticmethod
    def takes(layers: Sequence[Layer]) -> bool:
        """Say whether it can be used."""
        return all(
            layer.inputs.ndim == 2 and layer.bias is not None and layer.inputs.device.type == "cpu"
            for layer in layers
        )

    def __call__(self) -> None:
        """Cap the gradients that a backward pass left."""
        for inputs, grads, weights, biases in self.layers:
            inputs, grads = inputs.take(self.index, 0), grads.take(self.index, 0)
            np.add.reduceat(grads, self.starts, 0, out=biases)
            for rows, weight in zip(self.ranges, weights, strict=True):
                np.matmul(grads[rows].T, inputs[rows], out=weight)
        gradients = [grad_of(p).numpy().ravel() for p in self.parameters]
        np.concatenate(gradients, out=self.total)
        rest = self.total - (self.sums[0] if len(self.sums) == 1 else self.sums.sum(0))
        norms = [sqrt(part @ part) for part in (rest, *self.sums)]
        factors = [min(1.0, MAX_RATIO * norms[self.compared] / norm) for norm in norms]
        factors[self.compared] = 1.0
        others = np.array(factors[1:], np.float32) - np.float32(factors[0])
        combined = others @ self.sums
        combined += np.float32(factors[0]) * self.total
        split = torch.from_numpy(combined).split(self.sizes)
        for parameter, gradient in zip(self.parameters, split, strict=True):
            parameter.grad = gradient.view_as(parameter)
