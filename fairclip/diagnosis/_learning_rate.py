"""The size of an update against that of the weights."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from statistics import median

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import norm
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import LossFunction, Run

# About 1e-3 is healthy (Karpathy, CS231n, "Ratio of weights:updates",
# https://cs231n.github.io/neural-networks-3/#ratio). At 1e-1 ten steps make the model anew.
MAX_UPDATE_RATIO = 0.1
# A single layer may move faster: an output layer of a few units often takes 0.2 in its first step.
_MAX_OF_A_LAYER = 1.0


def measure(
    run: Run,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    before: Mapping[int, Tensor],
    table: Measurements,
) -> None:
    r"""Take one step and measure its ratio to each weight of at least two dimensions.

    .. math:: \lVert \Delta w \rVert_2 / \max(\lVert w \rVert_2, \sqrt{n_{out}})

    where the root is the norm of a weight of standard deviation :math:`1 / \sqrt{n_{in}}`: a layer
    that starts at zero has to begin somewhere. ``before`` holds the weights by identity.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    stepped = {name: p for name, p in run.parameters.items() if id(p) in held and p.dim() > 1}
    _step(run, optimizer, loss_fn)
    for name, p in stepped.items():
        size = max(norm([before[id(p)]]), p.shape[0] ** 0.5)
        table.add("update ratio", name, norm([p.detach() - before[id(p)]]) / size)


def _step(run: Run, optimizer: Optimizer, loss_fn: LossFunction) -> None:
    for name, p in run.parameters.items():
        p.grad = run.gradients[name]
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is None:
        optimizer.step()
    elif closure.default is closure.empty:  # L-BFGS evaluates the loss more than once
        optimizer.step(_closure(run, loss_fn))
    else:
        try:
            optimizer.step()
        except Exception:  # some need it all the same, and say so each in its own way
            optimizer.step(_closure(run, loss_fn))


def _closure(run: Run, loss_fn: LossFunction) -> Callable[[], float]:
    def evaluate() -> float:
        _, losses = run.batch.loss(run.model, loss_fn)
        loss = losses.mean()
        found = torch.autograd.grad(loss, list(run.parameters.values()), allow_unused=True)
        for p, gradient in zip(run.parameters.values(), found, strict=True):
            p.grad = gradient
        return float(loss.detach())

    return evaluate


def check(table: Measurements) -> Iterator[Finding]:
    """Report the median weight's ratio, else the largest."""
    ratios = table.of("update ratio")
    if not ratios:
        return
    where = max(ratios, key=lambda name: ratios[name])
    middle = median(ratios.values())
    if MAX_UPDATE_RATIO < middle < float("inf"):
        yield Finding(
            fault="learning rate",
            where=where,
            evidence=f"One step changes the median of {len(ratios)} weights by {middle:.3g} of its "
            f"norm, and this one by {ratios[where]:.3g}; about 0.001 is usual.",
            value=middle,
            threshold=MAX_UPDATE_RATIO,
            remedy=f"Divide the learning rate by about {middle / 1e-3:.1g}, or warm it up from "
            "there.",
        )
    elif _MAX_OF_A_LAYER < ratios[where] < float("inf"):
        yield Finding(
            fault="learning rate",
            where=where,
            evidence=f"One step changes it by {ratios[where]:.3g} of its norm, the median weight "
            f"by {middle:.3g}; about 0.001 is usual.",
            value=ratios[where],
            threshold=_MAX_OF_A_LAYER,
            remedy="Give this layer a parameter group with a smaller learning rate.",
        )
