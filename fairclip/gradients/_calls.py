"""What the forward passes of a window left behind, module call by module call."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from fairclip.gradients._replay import Snapshot

Key = tuple[str, int]
"""A call: the module's name and how many calls of it ended before in the window."""

_ONE_TENSOR = pytree.tree_flatten(((torch.empty(0),), {}))[1]

Detail = Literal["call", "scope", "replay"]
"""What is recorded of a module: its calls; also which calls run inside them; also all that a
re-run needs, with copies of the outputs."""


@dataclass(slots=True)
class Call:
    """One forward pass of one module, and the gradients that reached its outputs."""

    key: Key
    module: nn.Module
    inputs: list[Any]  # the leaves of (args, kwargs), tensors detached
    spec: pytree.TreeSpec
    n_dims: tuple[int, ...]  # of every leaf of the inputs and outputs, -1 for what is no tensor
    versions: tuple[int, ...]  # of the kept tensors, to notice changes in place
    is_entry: bool  # no recorded call around it
    snapshot: Snapshot | None  # of before the call
    outputs: list[Any]  # the leaves of what it returned, where they are kept
    grads: list[Tensor | None]  # one for each leaf of what it returned

    def reached(self) -> bool:
        """Say whether a backward pass came through this call."""
        return any(grad is not None for grad in self.grads)

    def release(self) -> None:
        """Let go of all tensors: the graph that refers to this call may live longer."""
        for tensors in (self.inputs, self.outputs, self.grads):
            tensors.clear()
        self.snapshot = None

    def outputs_unchanged(self) -> bool:
        """Say whether the kept outputs still hold what the call returned."""
        return _versions(self.outputs) == self.versions[len(_versions(self.inputs)) :]

    def check_inputs_unchanged(self) -> None:
        """Raise where an input was modified in place after the call."""
        found = _versions(self.inputs)
        if found != self.versions[: len(found)]:
            raise RuntimeError(
                f"An input of module '{self.key[0]}' was modified in place after its forward pass, "
                "so its group gradients cannot be computed. Use an operation that is not in place "
                "there, or `clipper.backward(losses, groups)`."
            )


def _versions(leaves: Sequence[Any]) -> tuple[int, ...]:
    return tuple(leaf._version for leaf in leaves if isinstance(leaf, Tensor))


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


class CallRecorder:
    """Forward hooks that record calls inside `recording`; outside they return at once.

    Args:
        modules: Every module that may be hooked, by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._handles: list[RemovableHandle] = []
        self._calls: list[Call] | None = None
        self._counts: Counter[str] = Counter()
        self._keep_outputs = False
        self._open: list[tuple[str, Snapshot | None]] = []

    def hook(self, details: Mapping[str, Detail]) -> None:
        """Hook these modules and no others."""
        self.remove()
        for name, detail in details.items():
            module = self._modules[name]
            if detail != "call":
                enter = partial(self._enter, name, detail)
                self._handles.append(module.register_forward_pre_hook(enter))
            # prepend: the output as it is before any hook of the user's changes it.
            leave = partial(self._leave, name, detail)
            handle = module.register_forward_hook(leave, prepend=True, with_kwargs=True)
            self._handles.append(handle)

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def recording(self, *, keep_outputs: bool = False) -> Iterator[list[Call]]:
        """Record into the list that this yields; nested, the inner list gets the calls."""
        outer = self._calls, self._counts, self._open, self._keep_outputs
        calls: list[Call] = []
        self._calls, self._counts, self._open = calls, Counter(), []
        self._keep_outputs = keep_outputs
        try:
            yield calls
        finally:
            self._calls, self._counts, self._open, self._keep_outputs = outer

    def _enter(self, name: str, detail: Detail, module: nn.Module, _args: Any) -> None:
        if self._calls is not None:
            snapshot = Snapshot.take(module) if detail == "replay" else None
            self._open.append((name, snapshot))

    def _leave(
        self,
        name: str,
        detail: Detail,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        if self._calls is None:
            return
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"Module '{name}' is being compiled: hooks do not see inside a compiled graph. Use "
                "the uncompiled model, or `clipper.backward(losses, groups)`."
            )
        snapshot = None
        if detail != "call":
            while (opened := self._open.pop())[0] != name:
                pass  # a forward that raised never left
            snapshot = opened[1]
        if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
            inputs, spec = list(args), _ONE_TENSOR  # pytree takes as long as a small layer
        else:
            inputs, spec = pytree.tree_flatten((args, kwargs))
        outputs = [output] if isinstance(output, Tensor) else pytree.tree_leaves(output)
        keep = outputs if detail == "replay" or self._keep_outputs else []
        call = Call(
            key=(name, self._counts[name]),
            module=module,
            inputs=[_detached(leaf) for leaf in inputs],
            spec=spec,
            n_dims=tuple(
                leaf.ndim if isinstance(leaf, Tensor) else -1 for leaf in (*inputs, *outputs)
            ),
            versions=_versions([*inputs, *keep]),
            is_entry=not self._open,
            snapshot=snapshot,
            outputs=[_detached(leaf) for leaf in keep],
            grads=[None] * len(outputs),
        )
        self._counts[name] += 1
        self._calls.append(call)
        for position, leaf in enumerate(outputs):
            if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                # On the node, not the tensor: hooks of the user's on the tensor have run by then.
                leaf.grad_fn.register_prehook(partial(_keep_grad, call, position, leaf.output_nr))


def _keep_grad(call: Call, position: int, output_nr: int, grads: tuple[Tensor | None, ...]) -> None:
    grad = grads[output_nr]
    if grad is None:
        return
    held = call.grads[position]
    # Two backward passes over one graph add up, as they do in `.grad`.
    call.grads[position] = grad.detach() if held is None else held + grad.detach()
