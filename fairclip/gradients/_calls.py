"""What the forward passes of a window left behind, module call by module call."""

import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from fairclip.gradients._attention import Projection, find_projections
from fairclip.gradients._replay import Snapshot
from fairclip.gradients._trees import flatten

Key = tuple[str, int]
"""A call: the module's name and how many calls of it ended before in the window."""

Pattern = tuple[str, tuple[int, ...], int]
"""What calls with the same layouts have in common: the module's name, and of every leaf of inputs
and outputs the number of dimensions, -1 for what is no tensor, and how many projections."""

_ONE_TENSOR = pytree.tree_flatten(((torch.empty(0),), {}))[1]

Detail = Literal["call", "replay"]
"""What is recorded of a module: its calls, or also all that a re-run needs, with its outputs."""


class Taker(Protocol):
    """Whoever makes use of a gradient while the backward pass runs, so that it need not be kept."""

    def take(self, call: "Call", grad: Tensor) -> bool:
        """Use the gradient of a call's only output; say whether the call is done with."""
        ...


@dataclass(slots=True, weakref_slot=True, eq=False)
class Call:
    """One forward pass of one module, and the gradients that reached its outputs."""

    key: Key
    pattern: Pattern
    module: nn.Module
    inputs: list[Any]  # the leaves of (args, kwargs)
    spec: pytree.TreeSpec
    versions: tuple[int, ...]  # of the kept tensors, to notice changes in place
    is_entry: bool  # no recorded call around it
    is_transformed: bool  # inside of torch.func.grad or another transformation
    snapshot: Snapshot | None  # of before the call
    outputs: list[Any]  # the leaves of what it returned, where they are kept
    grads: list[Tensor | None]  # one for each leaf of what it returned
    projections: list[Projection]  # of an attention
    taker: "Taker | None" = None  # offered each gradient as it comes
    is_taken: bool = False  # it took all that there is
    is_reached: bool = False  # a backward pass came through
    is_differentiated: bool = False  # its backward pass was, as a gradient penalty does
    inside: list["Call"] = field(default_factory=list)  # which only live as long as this one

    @property
    def name(self) -> str:
        """How to speak of the module."""
        return f"module '{self.key[0]}'" if self.key[0] else "the model"

    def release(self) -> None:
        """Let go of all tensors: the graph that refers to this call may live longer."""
        for held in (self.inputs, self.outputs, self.grads, self.projections, self.inside):
            held.clear()
        self.snapshot = self.taker = None

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
    return tuple([leaf._version for leaf in leaves if isinstance(leaf, Tensor)])


def has_user_hooks(module: nn.Module) -> bool:
    """Say whether anything but a recorder hooks the forward pass of a module."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return not all(
        isinstance(hook, partial) and isinstance(getattr(hook.func, "__self__", None), CallRecorder)
        for hook in hooks
    )


def detached(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves with tensors cut off from the graph."""
    return [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]


class CallRecorder:
    """Forward hooks that record calls between `start` and `stop`; else they return at once.

    Args:
        modules: Every module that may be hooked, by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._handles: list[RemovableHandle] = []
        self._calls: list[Call] | None = None
        self._counts: dict[str, int] = {}
        self._keep_outputs = False
        self._taker: Taker | None = None
        self._open: list[tuple[str, Snapshot, tuple[Any, ...], dict[str, Any]]] = []
        self._entries: Collection[str] | None = None
        self._writers: dict[str, list[Node]] = {}
        self._details: Mapping[str, Detail] = {}
        self._is_weak = False
        self._living: list[weakref.ref[Call]] = []
        self._inside: list[Call] = []

    def hook(self, details: Mapping[str, Detail], entries: Collection[str] | None = None) -> None:
        """Choose what `put` hooks; where hooks are on the model they are replaced at once.

        Entries of None: find out which modules are outermost, for which all must replay.
        """
        were_on = bool(self._handles)
        self.remove()
        self._details, self._entries = details, entries
        if were_on:
            self.put()

    def put(self) -> None:
        """Put the hooks on the model, if they are off."""
        if self._handles:
            return
        for name, detail in self._details.items():
            module = self._modules[name]
            # Around the user's own hooks, which take part in a re-run.
            if detail == "replay":
                enter = partial(self._enter, name)
                self._handles.append(
                    module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
                )
            leave = partial(self._leave, name, detail)
            self._handles.append(module.register_forward_hook(leave, with_kwargs=True))

    def find_writers(self) -> None:
        """Look up what writes each parameter's ``.grad``; again after a move to another device."""
        self._writers = {
            name: _writers(module)
            for name, module in self._modules.items()
            if not any(isinstance(p, UninitializedParameter) for p in module.parameters())
        }

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __reduce__(self) -> tuple[type["CallRecorder"], tuple[dict[str, nn.Module]]]:
        return CallRecorder, ({},)  # a copied or saved model takes hooks along that do nothing

    def start(self, taker: Taker | None = None, *, weakly: bool = False) -> None:
        """Begin to record; offer each gradient to ``taker``.

        Weakly, only what lives as long as its graph, and can be reached by a backward pass, for
        `take`.
        """
        self._calls, self._counts, self._open, self._taker = [], {}, [], taker
        self._is_weak, self._living, self._inside = weakly, [], []

    def stop(self) -> list[Call]:
        """Record no more; return the calls since `start`."""
        calls, self._calls = self._calls or [], None
        return calls

    def take(self) -> list[Call]:
        """Return the weakly recorded calls whose graphs are alive, each of them once."""
        calls = [call for held in self._living if (call := held()) is not None]
        self._living = []
        counts: Counter[str] = Counter()
        for call in calls:
            call.inside = []
            name = call.key[0]
            call.key = name, counts[name]
            counts[name] += 1
        return calls

    @contextmanager
    def probing(self) -> Iterator[list[Call]]:
        """Record into the list that this yields, with all outputs."""
        self.start()
        self._keep_outputs = True
        try:
            yield self._calls if self._calls is not None else []
        finally:
            self._keep_outputs = False
            self.stop()

    def _enter(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._calls is not None and not (self._passes_by() or _is_backward()):
            self._open.append((name, Snapshot.take(module), args, kwargs))

    def _leave(
        self,
        name: str,
        detail: Detail,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        calls = self._calls
        if calls is None or self._passes_by():
            return None
        if _is_backward():
            _refuse_backward_through(output)
            return None
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"Module '{name}' is being compiled: hooks do not see inside a compiled graph. Use "
                "the uncompiled model, or `clipper.backward(losses, groups)`."
            )
        snapshot: Snapshot | None = None
        if detail == "replay":
            while (opened := self._open.pop())[0] != name:
                pass  # a forward that raised never left
            _, snapshot, args, kwargs = opened
        if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
            inputs, spec = [args[0]], _ONE_TENSOR  # pytree takes as long as a small layer
        else:
            inputs, spec = flatten((args, kwargs))
        changed = None
        if isinstance(output, Tensor):
            outputs = [output]
        else:
            outputs, output_spec = flatten(output)
            if detail == "replay":
                # An output may be used inside as well: a view has the gradient from outside alone.
                outputs = [_view(leaf) for leaf in outputs]
                changed = pytree.tree_unflatten(outputs, output_spec)
        keep = outputs if detail == "replay" or self._keep_outputs else []
        found: list[tuple[Node, Projection]] = []
        if type(module) is nn.MultiheadAttention and not has_user_hooks(module):
            found = find_projections(module, inputs, outputs[0])
        if self._is_weak:  # what holds a graph would keep its own call alive
            inputs, keep = detached(inputs), detached(keep)
        ordinal = self._counts.get(name, 0)
        self._counts[name] = ordinal + 1
        leaves = inputs + outputs
        call = Call(
            (name, ordinal),
            (name, tuple([x.ndim if isinstance(x, Tensor) else -1 for x in leaves]), len(found)),
            module,
            inputs,
            spec,
            _versions(inputs + keep),
            not self._open if self._entries is None else name in self._entries,
            torch._C._functorch.peek_interpreter_stack() is not None,
            snapshot,
            keep,
            [None] * len(outputs),
            [projection for _, projection in found],
            self._taker,
        )
        if self._is_weak:
            self._hold(call)
        else:
            calls.append(call)
        writers = self._writers.get(name)
        if writers is None:  # of a lazy module: its parameters have their shapes now
            writers = self._writers[name] = _writers(module)
        for position, leaf in enumerate(outputs):
            if isinstance(leaf, PackedSequence):
                leaf = leaf.data
            if isinstance(leaf, Tensor) and (node := leaf.grad_fn) is not None:
                # On the node, not the tensor: hooks of the user's on the tensor have run by then.
                keep_grad = partial(_keep_grad, call, position, leaf.output_nr, writers)
                node.register_prehook(keep_grad)
        for node, projection in found:
            node.register_prehook(partial(_keep_projected, call, projection, writers))
        return changed

    def _passes_by(self) -> bool:
        """Say whether no backward pass can reach a call, or none be seen, in weak recording."""
        if not self._is_weak:
            return False
        return torch.compiler.is_compiling() or not (torch.is_grad_enabled() or self._open)

    def _hold(self, call: Call) -> None:
        """Remember a call for as long as its graph lives."""
        self._living.append(weakref.ref(call))
        if self._entries is None:
            # Told apart by their order, all calls inside an outermost one live as long as that one.
            if call.is_entry:
                call.inside, self._inside = self._inside, []
            else:
                self._inside.append(call)


def _is_backward() -> bool:
    """Say whether a backward pass is under way, as when activation checkpointing runs again."""
    return torch._C._current_graph_task_id() != -1


def _refuse_backward_through(output: Any) -> None:
    """Raise if a backward pass goes on through what was computed within one."""

    def refuse(*_: Any) -> None:
        raise RuntimeError(
            "A layer runs again within the backward pass, as with reentrant activation "
            "checkpointing, which hides what its rows are in the model. Use "
            "`torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`."
        )

    for leaf in flatten(output)[0]:
        if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
            leaf.grad_fn.register_prehook(refuse)


def _view(leaf: Any) -> Any:
    return leaf.view_as(leaf) if isinstance(leaf, Tensor) and leaf.grad_fn is not None else leaf


def _keep_grad(
    call: Call,
    position: int,
    output_nr: int,
    writers: Sequence[Node],
    grads: tuple[Tensor | None, ...],
) -> None:
    grad = grads[output_nr]
    if grad is None or not call.grads:
        return  # released
    if not any(map(_runs, writers)):
        call.is_differentiated |= torch.is_grad_enabled()  # create_graph
        return
    call.is_reached = True
    if call.taker is not None and call.taker.take(call, grad):
        call.is_taken = True
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            call.inputs.clear()
        return
    held = call.grads[position]
    # Two backward passes over one graph add up, as they do in `.grad`.
    call.grads[position] = grad if held is None else held + grad


def _keep_projected(
    call: Call, projection: Projection, writers: Sequence[Node], grads: tuple[Tensor | None, ...]
) -> None:
    grad = grads[0]
    if grad is None or not call.grads or not any(map(_runs, writers)):
        return
    held = projection.grads[0]
    projection.grads[0] = grad if held is None else held + grad


def _writers(module: nn.Module) -> list[Node]:
    """Return the nodes that write the ``.grad`` of the module's trainable parameters."""
    writers = []
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.is_leaf:
            with torch.enable_grad():
                node = parameter.view_as(parameter).grad_fn
            assert node is not None
            writer = node.next_functions[0][0]
            assert writer is not None
            writers.append(writer)
    return writers


def _runs(writer: Node) -> bool:
    """Say whether the backward pass that is under way writes ``.grad``."""
    try:
        return torch._C._will_engine_execute_node(writer)
    except RuntimeError:  # `torch.autograd.grad` for this parameter
        return False
