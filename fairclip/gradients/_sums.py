"""What the rows of each slot caused in one window. Shapes: S slots."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairclip.gradients._outer import Outer
from fairclip.gradients._rows import Slots


@dataclass(slots=True)
class Sums:
    """For each parameter that rows reached the sums over the rows of each slot.

    All that is kept is a sum over rows, or rows from which it can be worked out (`all_dense`), so
    that it could be added up over processes.

    Args:
        slots: Whose rows these are.
        dense: Sums that are worked out, (S, *shape) for each parameter.
        outer: Rows whose outer products are the sums, for each parameter that is not in ``dense``.
    """

    slots: Slots
    dense: dict[str, Tensor] = field(default_factory=dict)
    outer: dict[str, Outer] = field(default_factory=dict)

    def add(self, found: Mapping[str, Tensor]) -> None:
        """Add a call's sums to those of the calls before."""
        for name, tensor in found.items():
            if outer := self.outer.get(name):
                self._work_out(outer)
            held = self.dense.get(name)
            # Not in place: autograd may have given one tensor for two parameters.
            self.dense[name] = tensor if held is None else held + tensor

    def add_outer(self, outer: Outer) -> None:
        """Add a call's sums as rows, which are kept if it is the only call and if it pays."""
        names = outer.names()
        is_only = self.dense.keys().isdisjoint(names) and self.outer.keys().isdisjoint(names)
        if is_only and outer.is_worth_keeping(len(self.slots.parts)):
            self.outer.update(dict.fromkeys(names, outer))
        else:
            self.add(outer.sums(self.slots))

    def added(self, others: "Sums") -> "Sums":
        """Return the sums of two windows, which may hold different parts."""
        parts = tuple(dict.fromkeys((*self.slots.parts, *others.slots.parts)))
        joined = Sums(self.slots.without_rows(parts))
        for window in (self, others):
            places = [parts.index(part) for part in window.slots.parts]
            for name, tensor in window.all_dense().items():
                if name not in joined.dense:
                    joined.dense[name] = tensor.new_zeros(len(parts), *tensor.shape[1:])
                for place, of_part in zip(places, tensor, strict=True):
                    joined.dense[name][place] += of_part
        return joined

    def without(self, part: int) -> "Sums":
        """Return the sums of the other parts."""
        slot = self.slots.parts.index(part)
        others = Sums(self.slots.without(slot))
        if others.slots.parts:
            others.dense = {
                name: torch.cat((tensor[:slot], tensor[slot + 1 :]))
                for name, tensor in self.dense.items()
            }
            for outer in self.outers():
                rest = outer.without(self.slots.slices(outer.grads)[slot])
                others.outer.update(dict.fromkeys(rest.names(), rest))
        return others

    def get(self, name: str) -> Tensor | None:
        """Return the sums of one parameter, worked out; None where rows cause nothing."""
        if outer := self.outer.get(name):
            return outer.sum_of(name, self.slots)
        return self.dense.get(name)

    def of(self, names: Collection[str]) -> "Sums":
        """Return the sums of these parameters alone."""
        if self.dense.keys() <= set(names) and self.outer.keys() <= set(names):
            return self
        dense = {name: tensor for name, tensor in self.all_dense().items() if name in names}
        return Sums(self.slots, dense)

    def scaled(self, scale: Tensor) -> "Sums":
        """Return all of it times a number."""
        dense = {name: tensor * scale for name, tensor in self.dense.items()}
        scaled = Sums(self.slots, dense)
        for outer in self.outers():
            scaled.outer.update(dict.fromkeys(outer.names(), outer.scaled(scale)))
        return scaled

    def outers(self) -> list[Outer]:
        """Return each of the rows once."""
        return list({id(outer): outer for outer in self.outer.values()}.values())

    def all_dense(self) -> dict[str, Tensor]:
        """Return the sums of all parameters, worked out."""
        dense = dict(self.dense)
        for outer in self.outers():
            dense.update(outer.sums(self.slots))
        return dense

    def _work_out(self, outer: Outer) -> None:
        for name in outer.names():
            del self.outer[name]
        self.dense.update(outer.sums(self.slots))
