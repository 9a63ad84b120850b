"""Leave everything as it was: modules, parameters, gradients, optimizer, random numbers."""

import random
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_OF_TORCH = vars(nn.Module()).keys()


@contextmanager
def untouched(
    modules: Sequence[nn.Module], optimizer: Optimizer | None
) -> Iterator[Mapping[int, Tensor]]:
    """Undo, bit for bit, whatever happens to these inside, also when it raises.

    Inside, the gradients are None, modules and optimizer work on copies of their state, and the
    optimizer's hooks are off: what they remember could not be put back. Yields the parameters as
    they were, by identity.
    """
    modules = [m for top in modules for m in top.modules()]
    parameters: dict[int, Tensor] = {id(p): p for m in modules for p in m.parameters(recurse=False)}
    if optimizer is not None:
        parameters |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
    saved = {key: p.detach().clone() for key, p in parameters.items()}
    gradients = {key: p.grad for key, p in parameters.items()}
    with ExitStack() as stack:
        stack.enter_context(_random_numbers([p.device for p in parameters.values()]))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_modules(modules))
        if optimizer is not None:
            stack.enter_context(_optimizer(optimizer, parameters))
        try:
            for p in parameters.values():
                p.grad = None
            yield saved
        finally:
            with torch.no_grad():
                for key, p in parameters.items():
                    p.copy_(saved[key])
                    p.grad = gradients[key]


@contextmanager
def _random_numbers(devices: Sequence[torch.device]) -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = sorted({device.index for device in devices if device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def _modules(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let modules work on copies of their buffers and of what else they remember."""
    attributes = [vars(m).copy() for m in modules]
    buffers = [m._buffers.copy() for m in modules]
    copies: dict[int, Any] = {}  # what two modules share is copied once
    try:
        for m, old, held in zip(modules, attributes, buffers, strict=True):
            own = {name: x for name, x in old.items() if name not in _OF_TORCH}
            vars(m).update({name: _copied(x, copies) for name, x in own.items()})
            m._buffers.update({name: _copied(x, copies) for name, x in held.items()})
        yield
    finally:
        for m, old, held in zip(modules, attributes, buffers, strict=True):
            vars(m).clear()
            vars(m).update(old)
            m._buffers.clear()
            m._buffers.update(held)


def _copied(x: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of a tensor or container, with copies of those in it; other things as is."""
    if id(x) in copies:
        return copies[id(x)]
    if isinstance(x, Tensor) and not x.requires_grad:
        copies[id(x)] = x.clone()
    elif isinstance(x, list | dict | set | deque):
        copies[id(x)] = new = copy(x)  # before what is in it, which may be itself
        if isinstance(new, dict):
            new.update((key, _copied(value, copies)) for key, value in new.items())
        elif not isinstance(new, set):
            new.clear()
            new.extend(_copied(value, copies) for value in x)
    return copies.get(id(x), x)


@contextmanager
def _optimizer(optimizer: Optimizer, parameters: dict[int, Tensor]) -> Iterator[None]:
    inner = [x for x in vars(optimizer).values() if isinstance(x, Optimizer)]
    old = {x: vars(x).copy() for x in (optimizer, *inner)}
    memo: dict[int, Any] = dict(parameters)  # deepcopy finds them here, so they are not copied
    try:
        for x in old:
            vars(x).update(
                state=deepcopy(x.state, memo),
                param_groups=deepcopy(x.param_groups, memo),
                _optimizer_step_pre_hooks=OrderedDict(),
                _optimizer_step_post_hooks=OrderedDict(),
            )
        yield
    finally:
        for x, attributes in old.items():
            vars(x).clear()
            vars(x).update(attributes)
