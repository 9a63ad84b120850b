"""Look for the faults that clipping hides."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fairclip.diagnosis import (
    _activations,
    _depth,
    _inputs,
    _learning_rate,
    _momentum,
    _nonfinite,
    _recurrent,
    _rows,
    _weights,
)
from fairclip.diagnosis._batch import Batch
from fairclip.diagnosis._diagnosis import Diagnosis
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import LossFunction, Run
from fairclip.diagnosis._untouched import untouched

_OF_THE_MODEL = (_nonfinite, _inputs, _weights, _recurrent, _activations, _rows, _depth)
_OF_THE_OPTIMIZER = (_momentum, _learning_rate)


def diagnose(
    model: nn.Module,
    batch: tuple[Any, Any],
    loss_fn: LossFunction,
    optimizer: Optimizer | None = None,
) -> Diagnosis:
    r"""Look for the faults that clipping hides, with one batch.

    .. math:: \ell = \frac{1}{B} \sum_i \ell_i, \qquad
        \delta_l = \lVert \partial \ell / \partial h_l \rVert_2, \qquad
        r = \lVert \Delta w \rVert_2 / \lVert w \rVert_2

    Looked for: non-finite values and where they begin; the scale of the inputs and of the weights;
    recurrent weights (spectral radius, products of Jacobians over time); activations that grow
    without bound; rows with an outlying gradient; gradients :math:`\delta_l` that vanish or explode
    from layer to layer; and, with an optimizer, momentum that is large though the gradient is
    small, and the ratio :math:`r` of an update to the weights. Each number, and what could not be
    measured, is in ``to_frame()``.

    Model, loss and optimizer are the user's own and are left as they were, bit for bit: parameters,
    ``.grad``, buffers, attributes of modules (numbers, tensors, and lists, dicts, sets and deques
    of them), the optimizer's state, random numbers. Not put back is what other objects remember: a
    meter in an attribute that counts in itself, a file, a module that only a function as
    ``loss_fn`` reaches (pass a loss with state as a module). The model is run as it is, in train or
    eval mode, without compilation. For the update the optimizer takes a step, which is undone; its
    hooks, an attached clip among them, do not run, so that this is the update of the unclipped
    gradient.

    It costs a forward pass, a backward pass over the batch, a second run of recurrent layers and,
    where the loss has rows, a backward pass for each of up to 24 rows: the time of up to about 25
    training steps. Beside the memory of a step there are copies of the weights, of the optimizer's
    state, and two of the gradients.

    Args:
        model: Any module with trainable parameters.
        batch: Inputs and targets. Inputs are a tensor, or a tuple or dict that is passed as
            arguments by position or name.
        loss_fn: Called as ``loss_fn(model(inputs), targets)``; returns losses by row, or a scalar:
            then no row can be named.
        optimizer: One that holds parameters of the model; None leaves the last two out.

    Shape:
        - inputs, targets: B rows in dimension 0; losses: ``(B,)``, ``(B, ...)`` or ``()``.

    Returns:
        The :class:`Diagnosis`: findings, symptoms that may follow from them, measurements.

    Raises:
        TypeError: If an argument or the loss is of another type than said here.
        ValueError: If nothing trains, the loss does not depend on what does, the optimizer holds
            nothing of it, or the batch has no rows or other numbers of inputs and targets.

    Source:
        Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural
        networks; Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural
        networks, https://arxiv.org/abs/1211.5063; He et al. (2015), Delving deep into rectifiers,
        https://arxiv.org/abs/1502.01852; LeCun et al. (1998), Efficient BackProp; the update ratio:
        https://cs231n.github.io/neural-networks-3/#ratio. The thresholds are constants beside each
        check, with the reason for each.

    Example:
        >>> import torch
        >>> from fairclip.diagnosis import diagnose
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
        ... )
        >>> ages_and_incomes = torch.tensor([20.0, 10_000.0]) * (1 + torch.rand(32, 2))
        >>> batch = (ages_and_incomes, torch.randn(32, 1))
        >>> found = diagnose(model, batch, torch.nn.functional.mse_loss).findings
        >>> [(finding.fault, finding.where) for finding in found]
        [('input scale', '0, feature 1')]
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps it
    optimizer = _check(model, loss_fn, optimizer)
    checked = Batch.of(batch)
    table = Measurements()
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    with (
        untouched(modules, optimizer) as before,
        torch.compiler.set_stance("force_eager"),
        _differentiable(modules),
    ):
        run = Run.of(model, checked, loss_fn)
        for family in _OF_THE_MODEL:
            family.measure(run, table)
        if optimizer is not None:
            _momentum.measure(run, optimizer, table)
            _learning_rate.measure(run, optimizer, loss_fn, before, table)
    families = (*_OF_THE_MODEL, *_OF_THE_OPTIMIZER)
    return Diagnosis.of(table, [found for family in families for found in family.check(table)])


def _differentiable(modules: list[nn.Module]) -> AbstractContextManager[None]:
    """Go without cuDNN where it takes no gradient: recurrent layers in eval mode."""
    of_all = (m for top in modules for m in top.modules())
    if any(isinstance(m, nn.RNNBase) and not m.training for m in of_all):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def _check(model: Any, loss_fn: Any, optimizer: Any) -> Optimizer | None:
    """Raise unless they fit together; return the optimizer without wrappers around it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    if not callable(loss_fn):
        raise TypeError(
            f"`loss_fn` must be callable as loss_fn(outputs, targets), got "
            f"{type(loss_fn).__name__}."
        )
    if any(is_lazy(p) for p in model.parameters()):
        raise ValueError("`model` has lazy parameters without a shape. Run it on a batch once.")
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(
            "`model` must have parameters that require a gradient, and it has none. "
            "Set `requires_grad_(True)` on those to be trained."
        )
    if optimizer is None:
        return None
    # Accelerate and Lightning wrap it.
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}."
        )
    if not trainable & {id(p) for group in optimizer.param_groups for p in group["params"]}:
        raise ValueError(
            "`optimizer` must hold parameters of `model`, and it holds none of them. "
            "Make it from `model.parameters()`, after the model was moved to its device."
        )
    return optimizer
