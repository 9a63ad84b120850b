"""Run a forward pass again as it was: random numbers, autocast, train flags and buffers."""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Evaluate = Literal["all", "leaves", "none"]
"""Which modules have their train flags off in a re-run."""

_OF_TORCH = vars(nn.Module()).keys()
_NOTHING = nullcontext()


def _copied(attribute: Any) -> Any:
    """Copy what a forward pass may change in place."""
    if isinstance(attribute, Tensor):
        return attribute.clone()
    return copy(attribute) if isinstance(attribute, list | dict | set | deque) else attribute


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a forward pass depends on beside its arguments, taken just before it."""

    rng: Tensor
    cuda_rng: dict[int, Tensor]
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    training: tuple[bool, ...]
    buffers: tuple[dict[str, Tensor | None], ...]  # a module

    @classmethod
    def of(cls, module: nn.Module) -> "Snapshot":
        """Copy it for a forward pass of `module`."""
        cuda = sorted({p.device.index for p in module.parameters() if p.is_cuda})
        return cls(
            rng=torch.get_rng_state(),
            cuda_rng={index: torch.cuda.get_rng_state(index) for index in cuda},
            autocast=tuple(
                (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
                for kind in (("cpu", "cuda") if cuda else ("cpu",))
            ),
            training=tuple(m.training for m in module.modules()),
            buffers=tuple(
                {k: None if b is None else b.detach().clone() for k, b in m._buffers.items()}
                for m in module.modules()
            ),
        )

    def draws(self) -> bool:
        """Say whether random numbers have been drawn since, to be asked inside `restored`."""
        return not torch.equal(torch.get_rng_state(), self.rng) or any(
            not torch.equal(torch.cuda.get_rng_state(index), state)
            for index, state in self.cuda_rng.items()
        )

    @contextmanager
    def restored(
        self,
        module: nn.Module,
        *,
        evaluate: Evaluate = "none",
        autocast: bool = True,
    ) -> Iterator[None]:
        """Put it back for the time of a re-run; the module ends as it was found.

        What is to ``evaluate`` has its train flag off instead: dropout passes its input through and
        batch statistics are not used, so that rows do not depend on each other. Leaves are modules
        without others inside: those around them go the way of training.
        """
        modules = list(module.modules())
        states = [vars(m).copy() for m in modules]  # what a forward pass may count or remember
        for m in modules:
            vars(m).update(
                {name: _copied(x) for name, x in vars(m).items() if name not in _OF_TORCH}
            )
        buffers = [m._buffers.copy() for m in modules]
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=list(self.cuda_rng)))
            torch.set_rng_state(self.rng)
            for index, state in self.cuda_rng.items():
                torch.cuda.set_rng_state(state, index)
            for kind, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, enabled=enabled and autocast, dtype=dtype))
            stack.enter_context(torch.enable_grad())
            try:
                for m, was_training, held in zip(modules, self.training, self.buffers, strict=True):
                    is_leaf = not m._modules
                    off = evaluate == "all" or (evaluate == "leaves" and is_leaf)
                    m.training = was_training and not off
                    # Bound, not copied into: autograd may still need the tensors that are there.
                    m._buffers.update(
                        {k: None if b is None else b.clone() for k, b in held.items()}
                    )
                yield
            finally:
                for m, attributes, tensors in zip(modules, states, buffers, strict=True):
                    vars(m).clear()
                    vars(m).update(attributes)
                    m._buffers.update(tensors)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which arithmetic has the dtype of its tensors."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return _NOTHING
