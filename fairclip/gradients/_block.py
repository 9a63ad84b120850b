"""The parameters that share one factor a group: all of a model's, or a layer's. Shapes: S slots."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from fairclip._arrays import Array, on_host
from fairclip.gradients._outer import Outer
from fairclip.gradients._products import of_dense, of_flat, of_outer, zeros
from fairclip.gradients._sums import Sums

_SMALL = 2**14  # entries


class Block:
    """Gradients of some parameters, and what the rows of each slot caused in them.

    Args:
        totals: The gradients, by name; `recombine_` writes into them.
        sums: What the slots caused, in these parameters and maybe others.
    """

    def __init__(self, totals: Mapping[str, Tensor], sums: Sums) -> None:
        self._first = next(iter(totals.values()))
        self._slots = sums.slots
        self._on_host = on_host(self._first.device)
        self._outer: list[tuple[Outer, Tensor, Tensor | None]] = []
        self._large: list[tuple[Tensor, Tensor]] = []  # with their sums (S, *shape)
        self._small: list[Tensor] = []
        self._sums_of_small: list[Tensor] = []
        for outer in sums.outers():
            if outer.weight is not None and outer.weight in totals:
                bias = None if outer.bias is None else totals[outer.bias]
                self._outer.append((outer, totals[outer.weight], bias))
        served = {name for outer, *_ in self._outer for name in outer.names()}
        n_slots, dtype = len(sums.slots.parts), self._first.dtype
        for name, total in totals.items():
            if name in served:
                continue
            dense = sums.dense.get(name)
            if dense is None:
                dense = total.new_zeros((n_slots, *total.shape))
            elif dense.dtype != total.dtype:
                dense = dense.to(total.dtype)  # after autocast
            if total.numel() < _SMALL and total.dtype == dtype:
                self._small.append(total)
                self._sums_of_small.append(dense)
            else:
                self._large.append((total, dense))

    def gramian(self) -> Array:
        """Return the dot products between what no slot caused and the slots' sums.

        (1 + S, 1 + S) float64.
        """
        found: Array = of_flat(self._flat) if self._small else 0.0
        if self._large or self._outer:
            found = found + (self._from_rows() if self._on_host else self._from_sums())
        return found

    def _from_rows(self) -> Array:
        """Return them for large parameters, without working anything out that is not needed."""
        found, terms = of_outer(self._outer, self._slots)
        for total, dense in self._large:
            found += of_dense(total, dense)
        terms[0] += abs(found).sum()
        # From the whole gradient to the part of it that no slot caused.
        found[0] -= found[1:].sum(0)
        found[:, 0] -= found[:, 1:].sum(1)
        eps = torch.finfo(self._first.dtype).eps
        if (found.diagonal() < eps**0.5 * terms).any():
            return self._from_sums()  # large terms cancelled, and rounding is what is left
        return found

    def _from_sums(self) -> Array:
        """Return them from tensors that were subtracted, not from products that were."""
        found = zeros(len(self._slots.parts), self._first.device)
        pairs = list(self._large)
        for outer, weight, bias in self._outer:
            totals = [weight] if bias is None else [weight, bias]
            pairs += zip(totals, outer.sums(self._slots).values(), strict=True)
        for total, dense in pairs:
            found += of_dense(total - dense.sum(0), dense)
        return found

    def recombine_on_host_(self, of_rest: float, of_slots: Sequence[float]) -> None:
        """Multiply the rest and the slots' sums by their factors and add up."""
        changes = [factor - of_rest for factor in of_slots]
        if of_rest == 1.0 and not any(changes):
            return
        if self._small:
            torch._foreach_mul_(self._small, of_rest)
        if self._small and len(changes) == 1:
            sums = [dense[0] for dense in self._sums_of_small]
            torch._foreach_add_(self._small, sums, alpha=changes[0])
        elif self._small:
            change = self._flat.new_tensor(changes) @ self._flat[1:]
            unflatten = torch._C._nn.unflatten_dense_tensors
            torch._foreach_add_(self._small, unflatten(change, self._small))
        if not (self._large or self._outer):
            return
        weights = torch.tensor(changes, dtype=self._first.dtype)
        for total, dense in self._large:
            if total.is_contiguous() and total.dtype == weights.dtype:
                total.view(-1).addmv_(dense.flatten(1).T, weights, beta=of_rest)
            else:
                total.mul_(of_rest).add_(
                    torch.einsum("s,s...->...", weights.to(total.dtype), dense)
                )
        for outer, weight, bias in self._outer:
            outer.add_(weight, bias, self._slots.spread(weights, outer.grads), of_rest)

    def recombine_on_device_(self, of_rest: Tensor, of_slots: Tensor) -> None:
        """Do the same with 0-d and (S,) tensors, without waiting for them."""
        differs = (of_rest != 1.0) | (of_slots != 1.0).any()
        changes = of_slots - of_rest
        new: list[tuple[Tensor, Tensor]] = []
        for total, dense in (*zip(self._small, self._sums_of_small, strict=True), *self._large):
            change = torch.tensordot(changes.to(dense.dtype), dense, 1)
            new.append((total, torch.addcmul(change, total, of_rest.to(total.dtype))))
        for outer, weight, bias in self._outer:
            of_weight = weight * of_rest.to(weight.dtype)
            of_bias = None if bias is None else bias * of_rest.to(bias.dtype)
            outer.add_(of_weight, of_bias, self._slots.spread(changes, outer.grads))
            new.append((weight, of_weight))
            if bias is not None and of_bias is not None:
                new.append((bias, of_bias))
        # Written always, chosen on the device: to ask it which would mean to wait for it.
        for total, combined in new:
            total.copy_(torch.where(differs, combined, total))

    @cached_property
    def _flat(self) -> Tensor:
        """The small parameters side by side, (1 + S, P): of the rest, then of the slots."""
        n_slots = len(self._slots.parts)
        if n_slots <= 1:
            flatten = torch._C._nn.flatten_dense_tensors
            flat: Tensor = flatten([*self._small, *self._sums_of_small]).view(1 + n_slots, -1)
        else:
            flat = self._first.new_empty(1 + n_slots, sum([t.numel() for t in self._small]))
            torch.cat([total.reshape(-1) for total in self._small], out=flat[0])
            torch.cat(
                [dense.reshape(n_slots, -1) for dense in self._sums_of_small], 1, out=flat[1:]
            )
        if n_slots:
            flat[0].sub_(flat[1] if n_slots == 1 else flat[1:].sum(0))
        return flat
