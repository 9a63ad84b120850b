"""The user's own module, checked before it trains."""

import copy

from torch import Tensor, nn

from fairclip.training._loop import infer


def copy_module(module: nn.Module, inputs: Tensor, n_outputs: int) -> nn.Module:
    """Return a copy on the CPU after two rows went through it.

    Args:
        module: Is left as it is.
        inputs: Two rows or more, ``(N, d)``.
        n_outputs: Logits per row that the loss needs.

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
    if shape != (2, n_outputs):
        raise ValueError(
            f"`module` must return {n_outputs} logits per row, shape (2, {n_outputs}) for two "
            f"rows, got {shape}."
        )
    return module
