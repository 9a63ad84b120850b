"""What the calls of Linear layers and convolutions met in one pass, for the floor's kernels.

Shapes: B rows, K groups, S = K - 1 groups without the largest, n rows of a group, padded to the
largest of the S; m entries of a row (tokens, patches).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.utils.rnn import pad_sequence

from tests.benchmarks._step_models import Batch


@dataclass(frozen=True)
class Members:
    """The rows of the S smaller groups."""

    numbers: Tensor  # (S, n)
    is_row: Tensor | None  # (S, n), None without padding

    @classmethod
    def of(cls, batch: Batch) -> "Members":
        """Sort the rows by group; padding repeats row 0."""
        rows = [batch.rows(group) for group in range(1, batch.n_groups)]
        numbers = pad_sequence(rows, batch_first=True)
        is_row = pad_sequence([torch.ones_like(r, dtype=torch.bool) for r in rows], True)
        return cls(numbers, None if is_row.all() else is_row)


@dataclass(frozen=True)
class Layer:
    """One call of a layer: its input and the gradient of its output, (B, ...) each."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    inputs: Tensor
    grads: Tensor
    convolution: tuple[Any, ...]  # stride and padding; empty for a Linear layer
    members: Members

    def gathered(self) -> tuple[Tensor, Tensor]:
        """Return both for the rows of the smaller groups, (S * n, ...) each."""
        index = self.members.numbers.flatten()
        grads = self.grads.index_select(0, index)
        if self.members.is_row is not None:
            grads *= self.members.is_row.view(-1, *[1] * (grads.ndim - 1))
        return self.inputs.index_select(0, index), grads

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return them as matrices, (S, n * m, d_in) and (S, n * m, d_out)."""
        inputs, grads = self.gathered()
        if self.convolution:
            stride, padding = self.convolution
            inputs = F.unfold(inputs, self.weight.shape[2:], padding=padding, stride=stride)
            inputs, grads = inputs.transpose(1, 2), grads.flatten(2).transpose(1, 2)
        n_groups = len(self.members.numbers)
        return (
            inputs.reshape(n_groups, -1, inputs.shape[-1]),
            grads.reshape(n_groups, -1, grads.shape[-1]),
        )

    def total(self) -> Tensor:
        """Return the weight's gradient as a matrix, (d_out, d_in)."""
        return grad_of(self.weight).flatten(1)


def grad_of(parameter: nn.Parameter) -> Tensor:
    """Return the gradient that the backward pass left."""
    assert parameter.grad is not None
    return parameter.grad


def record(model: nn.Module, batch: Batch) -> list[Layer]:
    """Do a forward and a backward pass and return its calls; the gradients stay in ``.grad``."""
    layers: list[Layer] = []
    members = Members.of(batch)
    n_rows = len(batch.groups)

    def rows_first(tensor: Tensor) -> Tensor:
        """MultiheadAttention has its rows in dimension 1, or flattened behind the tokens."""
        if len(tensor) == n_rows:
            return tensor.detach()
        by_token = tensor.detach().view(-1, n_rows, tensor.shape[-1])
        return by_token.transpose(0, 1).contiguous()

    def recording(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(
            inputs: Tensor, weight: nn.Parameter, bias: nn.Parameter | None = None, *options: Any
        ) -> Tensor:
            output = function(inputs, weight, bias, *options)

            def keep(grad: Tensor) -> None:
                ends = rows_first(inputs), rows_first(grad)
                layers.append(Layer(weight, bias, *ends, options[:2], members))

            output.register_hook(keep)
            return output

        return call

    with (
        patch.object(F, "linear", recording(F.linear)),
        patch.object(F, "conv2d", recording(F.conv2d)),
    ):
        batch.losses(model).mean().backward()
    return layers
