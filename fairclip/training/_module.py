"""The user's own module, checked before it trains."""

import copy

from torch import nn

from fairclip.training._loop import infer
from fairclip.training._rows import Inputs


def copy_module(module: nn.Module, inputs: Inputs, n_outputs: int) -> nn.Module:
    """Return a copy on the CPU after one or two rows went through it.

    Args:
        module: Is left as it is.
        inputs: One row or more, ``(N, d)``.
        n_outputs: Numbers per row that the loss needs.

    Raises:
        ValueError: If the module has nothing to train, fails on these rows or returns another
            shape.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("`module` has no trainable parameters.")
    module = copy.deepcopy(module).cpu()
    rows = inputs[:2]
    try:
        shape = tuple(infer(module, rows).shape)
    except RuntimeError as error:
        raise ValueError(f"`module` fails on {tuple(rows.shape)} float32: {error}") from error
    expected = (len(rows), n_outputs)
    if shape != expected:
        raise ValueError(
            f"`module` must return {n_outputs} numbers per row, shape {expected} for "
            f"{len(rows)} row(s), got {shape}."
        )
    return module
