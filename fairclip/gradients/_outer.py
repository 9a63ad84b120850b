"""Sums of outer products that need not be worked out. Shapes: M rows sorted by S slots."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fairclip._arrays import on_host
from fairclip.gradients._rows import Slots

# Multiply-adds of a matrix product in the time of one float of memory that is read or written, and
# of one call, as measured on a CPU with two cores: only the choice between two exact ways hangs on
# them.
PER_FLOAT = 20
PER_CALL = 1_000_000
_TINY = 2**18  # multiply-adds, of which numpy's call is the quicker


@dataclass(slots=True)
class Outer:
    r"""What the rows of a linear layer cause, as rows: :math:`g_k = \sum_{i \in k} d_i x_i^T`.

    Args:
        inputs: (M, d_in) the x.
        grads: (M, d_out) the d, gradients of the outputs.
        weight: The name of the parameter (d_out, d_in) whose gradient this is; None if frozen.
        bias: The name of the parameter (d_out,); None if there is none.
        shape: Of the weight, which may be (d_out, ...).
    """

    inputs: Tensor
    grads: Tensor
    weight: str | None
    bias: str | None
    shape: tuple[int, ...]

    def renamed(self, names: Mapping[str, str]) -> "Outer":
        """Return the same for parameters of other names, without those that have none."""
        weight, bias = (None if n is None else names.get(n) for n in (self.weight, self.bias))
        return replace(self, weight=weight, bias=bias)

    def names(self) -> list[str]:
        """Return the parameters' names."""
        return [name for name in (self.weight, self.bias) if name is not None]

    def sums(self, slots: Slots) -> dict[str, Tensor]:
        """Work the sums out, (S, *shape) for each parameter."""
        return {name: self.sum_of(name, slots) for name in self.names()}

    def sum_of(self, name: str, slots: Slots) -> Tensor:
        """Work out those of one parameter, (S, *shape)."""
        if name == self.weight:
            return self._products(slots).view(-1, *self.shape)
        return slots.sums(self.grads)

    def without(self, rows: slice) -> "Outer":
        """Return the same without some of the rows."""
        inputs, grads = (
            torch.cat((x[: rows.start], x[rows.stop :])) for x in (self.inputs, self.grads)
        )
        return replace(self, inputs=inputs, grads=grads)

    def _products(self, slots: Slots) -> Tensor:
        n_slots = len(slots.sizes)
        if n_slots == 1:
            return (self.grads.T @ self.inputs)[None]
        out = self.grads.new_empty(n_slots, self.grads.shape[1], self.inputs.shape[1])
        n_products = out[0].numel() * len(self.grads) // n_slots
        if on_host(out.device) and out.dtype.itemsize >= 4 and n_products < _TINY:
            grads, inputs, products = self.grads.numpy().T, self.inputs.numpy(), out.numpy()
            with np.errstate(all="ignore"):
                for slot, rows in enumerate(slots.slices(self.grads)):
                    np.matmul(grads[:, rows], inputs[rows], out=products[slot])
        else:
            for slot, rows in enumerate(slots.slices(self.grads)):
                torch.mm(self.grads[rows].T, self.inputs[rows], out=out[slot])
        return out

    def is_worth_keeping(self, n_slots: int) -> bool:
        """Say whether norms and a recombination from the rows cost less than from the sums."""
        if self.weight is None or self.grads.dtype not in (torch.float32, torch.float64):
            return False
        n_rows, d_out = self.grads.shape
        d_in = self.inputs.shape[1]
        n_weights = d_in * d_out
        per_weight = n_rows + n_slots * 2 * PER_FLOAT + 4 * n_slots**2
        of_sums = n_weights * per_weight + (4 + n_slots) * PER_CALL
        of_rows = n_weights * 2 * n_rows + 1.5 * n_rows**2 * (d_in + d_out) + 30 * PER_CALL
        return of_rows < of_sums

    def scaled(self, scale: Tensor) -> "Outer":
        """Return the same times a number."""
        return replace(self, grads=self.grads * scale)

    def gramian(self) -> Tensor:
        """Return the dot products between the rows' own gradients, (M, M)."""
        inputs, grads = self.inputs, self.grads
        if self.bias is None:
            products = inputs @ inputs.T
        else:
            products = torch.addmm(inputs.new_ones(()), inputs, inputs.T)
        return products.mul_(grads @ grads.T)

    def along(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the dot product of each row's own gradient with these tensors, (M,)."""
        matrix = weight.flatten(1)
        products = (
            self.inputs @ matrix.T if bias is None else torch.addmm(bias, self.inputs, matrix.T)
        )
        along: Tensor = torch.linalg.vecdot(products, self.grads)
        return along

    def add_(
        self, weight: Tensor, bias: Tensor | None, by_row: Tensor, of_rest: float = 1.0
    ) -> None:
        """Multiply the tensors by ``of_rest`` and add the rows times ``by_row`` (M, 1)."""
        grads = self.grads * by_row
        matrix = weight.flatten(1)
        matrix.addmm_(grads.T, self.inputs, beta=of_rest)
        if matrix.data_ptr() != weight.data_ptr():
            weight.copy_(matrix.view_as(weight))
        if bias is not None:
            bias.mul_(of_rest).add_(grads.sum(0))
