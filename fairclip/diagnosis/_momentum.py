"""What the optimizer carries along from earlier steps against the gradient of today."""

import math
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import norm
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run

# Averages over about ten steps, as momentum 0.9 makes them, follow the gradient within a factor 20.
# A hundred times the gradient is what one spike leaves behind, or sudden convergence: it counts
# when the median update is also ten times the usual 1e-3 of the weights.
_MAX_RATIO = 100.0
_MAX_UPDATE_RATIO = 0.01
# A quasi-Newton direction may be much larger than the gradient where the loss is flat: it counts
# when the step would also be as large as the weights themselves.
_MAX_STEP = 1.0


def measure(run: Run, optimizer: Optimizer, table: Measurements) -> None:
    r"""Measure :math:`\lVert m \rVert / \lVert g \rVert`, over all parameters, before any step.

    :math:`m` is the momentum as an average of gradients: SGD's buffer times
    :math:`(1 - \mu) / (1 - dampening)`, ``exp_avg`` over :math:`1 - \beta_1^t`. For L-BFGS it is
    its last direction. Other optimizers' memories are not measured.
    """
    by_parameter = {id(p): run.gradients[name] for name, p in run.parameters.items()}
    gradients, memories, directions, step = [], [], [], 0.0
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            gradients.append(by_parameter.get(id(p)))
            memories.append(_average(state, group))
            if "d" in state:
                directions.append(state["d"])
                step = float(state["t"])
    gradient = norm(gradients)
    if not 0 < gradient < math.inf:
        return
    if directions:
        size = norm(directions)
        table.add("direction over gradient", "optimizer", size / gradient)
        weights = norm(run.parameters.values())
        table.add("step over weights", "optimizer", step * size / weights if weights else 0.0)
    elif any(memory is not None for memory in memories):
        table.add("momentum over gradient", "optimizer", norm(memories) / gradient)


def _average(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor | None:
    buffer: Tensor | None = state.get("momentum_buffer")
    average: Tensor | None = state.get("exp_avg")
    # Other buffers have other units, and with a dampening of 1 the first gradient stays alone.
    if buffer is not None and group.get("dampening", 1) != 1:
        factor: float = (1 - group["momentum"]) / (1 - group["dampening"])
        return buffer * factor
    if average is not None and "betas" in group and "step" in state:
        correction: float = 1 - group["betas"][0] ** float(state["step"])
        return average / correction
    return None


def check(table: Measurements) -> Iterator[Finding]:
    """Report memories that are far larger than the gradient."""
    ratio = table.of("momentum over gradient").get("optimizer", 0.0)
    direction = table.of("direction over gradient").get("optimizer", 0.0)
    step = table.of("step over weights").get("optimizer", 0.0)
    update = median(table.of("update ratio").values() or [0.0])
    if ratio > _MAX_RATIO and update > _MAX_UPDATE_RATIO:
        yield Finding(
            fault="large update",
            where="optimizer",
            evidence=f"The momentum is {ratio:.3g} times the gradient of this batch, and the "
            f"median weight changes by {update:.3g} of its norm in a step.",
            value=ratio,
            threshold=_MAX_RATIO,
            remedy="Clip before the momentum is updated, drop the optimizer's state after a spike, "
            "or attach fairclip.clipping.Momentum or Update.",
        )
    elif direction > _MAX_RATIO and step > _MAX_STEP:
        yield Finding(
            fault="large update",
            where="optimizer",
            evidence=f"The last direction of L-BFGS is {direction:.3g} times the gradient of this "
            f"batch, and its step {step:.3g} times the weights' norm.",
            value=direction,
            threshold=_MAX_RATIO,
            remedy='Use line_search_fn="strong_wolfe", or attach fairclip.clipping.Update.',
        )
