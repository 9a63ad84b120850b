"""torch's own optimizer inside those of other libraries."""

from torch.optim import Optimizer


def torch_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that Lightning's and Accelerate's hold as ``optimizer``.

    Raises:
        TypeError: If there is none.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"`optimizer` must be a torch.optim.Optimizer, got {optimizer!r}.")
    return optimizer
