"""What torch keeps private about a backward pass."""

from collections.abc import Callable

import torch
from torch import nn
from torch.autograd import Variable
from torch.autograd.graph import Node


def in_backward() -> bool:
    """Say whether a backward pass is under way."""
    return torch._C._current_graph_task_id() != -1


def after_backward(callback: Callable[[], None]) -> None:
    """Call back when the backward pass that is under way has ended."""
    Variable._execution_engine.queue_callback(callback)


def keeps_graph() -> bool:
    """Say whether the backward pass that is under way was called with ``retain_graph``."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def is_transformed() -> bool:
    """Say whether this runs inside of torch.func.grad or another transformation."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def saves_by_hooks() -> bool:
    """Say whether what a graph saves goes through hooks, as in activation checkpointing."""
    return bool(torch._C._autograd._top_saved_tensors_default_hooks(True))


def writer_of(parameter: nn.Parameter) -> Node:
    """Return the node that writes the ``.grad`` of a trainable parameter."""
    with torch.enable_grad():
        node = parameter.view_as(parameter).grad_fn
    assert node is not None
    writer = node.next_functions[0][0]
    assert writer is not None
    return writer


def runs(writer: Node) -> bool:
    """Say whether the backward pass that is under way writes that ``.grad``."""
    try:
        return torch._C._will_engine_execute_node(writer)
    except RuntimeError:  # `torch.autograd.grad` for this parameter
        return False
