"""Forward hooks that record what the modules of a model are called with and return."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import UninitializedParameter
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from fairclip.gradients._arrivals import listen, refuse_backward_through
from fairclip.gradients._attention import Projection, find_projections
from fairclip.gradients._autograd import in_backward, is_transformed, writer_of
from fairclip.gradients._call import Call, Receiver, detached, versions
from fairclip.gradients._living_calls import LivingCalls
from fairclip.gradients._replay import Snapshot
from fairclip.gradients._trees import flatten

Detail = Literal["call", "replay"]
"""What is recorded of a module: its calls, or also all that a re-run needs, with its outputs."""

_ONE_TENSOR = pytree.tree_flatten(((torch.empty(0),), {}))[1]


def has_user_hooks(module: nn.Module) -> bool:
    """Say whether anything but a recorder hooks the forward pass of a module."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return not all(
        isinstance(hook, partial) and isinstance(getattr(hook.func, "__self__", None), CallRecorder)
        for hook in hooks
    )


class CallRecorder:
    """Forward hooks that record calls between `start` and `stop`; else they return at once.

    Args:
        modules: Every module that may be hooked, by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self._handles: list[RemovableHandle] = []
        self._details: Mapping[str, Detail] = {}
        self._outermost: Collection[str] | None = None
        self._writers: dict[str, list[Node]] = {}
        self._by_parameter: dict[nn.Parameter, Node] = {}
        self._is_on = False
        self._calls: list[Call] = []
        self._living: LivingCalls | None = None
        self._counts: dict[str, int] = {}
        self._open: list[tuple[str, Snapshot, tuple[Any, ...], dict[str, Any]]] = []
        self._receiver: Receiver | None = None
        self._keep_outputs = False

    def hook(self, details: Mapping[str, Detail], outermost: Collection[str] | None = None) -> None:
        """Choose what `put` hooks; where hooks are on the model they are replaced at once.

        None for ``outermost``: find out which modules are, for which all must replay.
        """
        were_on = bool(self._handles)
        self.remove()
        self._details, self._outermost = details, outermost
        if were_on:
            self.put()

    def put(self) -> None:
        """Put the hooks on the model, if they are off."""
        if self._handles:
            return
        for name, detail in self._details.items():
            module = self.modules[name]
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
        parameters = {p for module in self.modules.values() for p in module._parameters.values()}
        # Now, since inside of torch.func nobody can tell.
        self._by_parameter = {
            p: writer_of(p)
            for p in parameters
            if p is not None and p.requires_grad and p.is_leaf
            if not isinstance(p, UninitializedParameter)
        }
        self._writers = {}

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __reduce__(self) -> tuple[type["CallRecorder"], tuple[dict[str, nn.Module]]]:
        return CallRecorder, ({},)  # a copied or saved model takes hooks along that do nothing

    def start(self, receiver: Receiver | None = None, *, weakly: bool = False) -> None:
        """Begin to record; offer each gradient to ``receiver``.

        Weakly, only what lives as long as its graph, and can be reached by a backward pass, for
        `living`.
        """
        self._is_on, self._calls, self._counts, self._open = True, [], {}, []
        self._receiver, self._living = receiver, LivingCalls() if weakly else None

    def stop(self) -> list[Call]:
        """Record no more; return the calls since `start`."""
        self._is_on, self._receiver = False, None
        calls, self._calls = self._calls, []
        return calls

    def living(self) -> list[Call]:
        """Return the weakly recorded calls whose graphs are alive, each of them once."""
        return [] if self._living is None else self._living.take()

    @contextmanager
    def probing(self) -> Iterator[list[Call]]:
        """Record into the list that this yields, with all outputs."""
        self.start()
        self._keep_outputs = True
        try:
            yield self._calls
        finally:
            self._keep_outputs = False
            self.stop()

    def _enter(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._is_on and not (self._passes_by() or in_backward()):
            self._open.append((name, Snapshot.of(module), args, kwargs))

    def _leave(
        self,
        name: str,
        detail: Detail,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        if not self._is_on or self._passes_by():
            return None
        if in_backward():  # as when activation checkpointing runs it again
            refuse_backward_through(output)
            return None
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
        self._record(name, module, inputs, spec, snapshot, outputs)
        return changed

    def _record(
        self,
        name: str,
        module: nn.Module,
        inputs: list[Any],
        spec: pytree.TreeSpec,
        snapshot: Snapshot | None,
        outputs: Sequence[Any],
    ) -> None:
        found: list[tuple[Node, Projection]] = []
        if type(module) is nn.MultiheadAttention and not has_user_hooks(module):
            found = find_projections(module, inputs, outputs[0])
        dims = tuple([x.ndim if isinstance(x, Tensor) else -1 for x in (*inputs, *outputs)])
        ordinal = self._counts.get(name, 0)
        self._counts[name] = ordinal + 1
        keep = list(outputs) if snapshot is not None or self._keep_outputs else []
        if self._living is not None:  # what holds a graph would keep its own call alive
            inputs, keep = detached(inputs), detached(keep)
        call = Call(
            (name, ordinal),
            (name, dims, len(found)),
            module,
            inputs,
            spec,
            versions(inputs + keep),
            not self._open if self._outermost is None else name in self._outermost,
            is_transformed(),
            snapshot,
            keep,
            [None] * len(outputs),
            [projection for _, projection in found],
            self._receiver,
        )
        if self._living is None:
            self._calls.append(call)
        else:
            self._living.add(call, with_inside=self._outermost is None)
        listen(call, outputs, found, self._writers_in(name, module))

    def _writers_in(self, name: str, module: nn.Module) -> list[Node]:
        """Return what writes the ``.grad`` of a module's parameters, its own or deeper inside."""
        if name not in self._writers:
            trainable = [p for p in module.parameters() if p.requires_grad and p.is_leaf]
            for parameter in trainable:
                if parameter not in self._by_parameter:  # of a lazy module, which has shapes now
                    self._by_parameter[parameter] = writer_of(parameter)
            self._writers[name] = [self._by_parameter[p] for p in trainable]
        return self._writers[name]

    def _passes_by(self) -> bool:
        """Say whether no backward pass can reach a call, or none be seen, in weak recording."""
        if self._living is None:
            return False
        return torch.compiler.is_compiling() or not (torch.is_grad_enabled() or self._open)


def _view(leaf: Any) -> Any:
    return leaf.view_as(leaf) if isinstance(leaf, Tensor) and leaf.grad_fn is not None else leaf
