"""Recurrent layers: the spectral radius, and products of Jacobians over time. T is time steps."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_packed_sequence

from fairclip.diagnosis._batch import is_packed
from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import norm, values
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._recorder import Layer
from fairclip.diagnosis._run import Run
from fairclip.diagnosis._weighted import n_gates, weights

# A radius above 1 is necessary for explosion where the activation's slope is at most 1 (Pascanu et
# al. 2013, section 2.1), but far from sufficient: trained tanh networks, which saturate, reach 1.6.
# torch's default is 0.58, identity and orthogonal matrices have 1.
_MAX_RADIUS = 2.5
# LSTM and GRU multiply by gates, which are sigmoids, or by their slope of at most 1/4: the
# condition is 1 over the slope (the same section).
_GATE_SLOPE = 0.25
# Over the sequence, relative to the last step.
_MAX_GROWTH = 1e3
# A step. torch's default RNN, LSTM and GRU keep about a half; at this rate a thousandth is left
# after five steps.
_MIN_RATE = 0.25
_MIN_STEPS = 5
# Below this share of the last step's norm float32 may have lost what is left.
_LOST = 1e-30


def measure(run: Run, table: Measurements) -> None:
    r"""Measure the radius of each recurrent matrix, and send a gradient back through time.

    .. math:: n_t = \lVert v^\top \partial h_T / \partial x_t \rVert_2

    with a fixed random :math:`v`: what reaches step t from the last step alone, whatever the loss
    looks at. Cells that are called in a loop are measured at their states :math:`h_t` instead.
    """
    for layer in run.layers:
        if not isinstance(layer.module, nn.RNNBase | nn.RNNCellBase):
            continue
        gates = n_gates(layer.module)
        for name, weight in weights(layer.module):
            if not name.startswith("weight_hh") or not weight.isfinite().all():
                continue
            where, square = f"{layer.name}.{name}", weight.shape[0] == gates * weight.shape[1]
            if square:
                table.add("spectral radius", where, _radius(weight, gates))
            else:
                table.add("spectral radius", where, math.nan, "a projected state has no matrix")
        norms = _through_time(layer)
        if len(norms) >= _MIN_STEPS and norms[-1] > 0:
            table.add("growth over time", layer.name, max(norms) / norms[-1])
            table.add("rate over time", layer.name, _rate(norms))


def _radius(weight: Tensor, gates: int) -> float:
    """Return the largest, over the gates' matrices, of slope times spectral radius."""
    blocks = values(weight).chunk(gates)
    slope = _GATE_SLOPE if gates > 1 else 1.0
    return slope * max(float(torch.linalg.eigvals(block).abs().max()) for block in blocks)


def _through_time(layer: Layer) -> list[float]:
    """Return the norm at each step, the last step's last; empty where nothing can be told."""
    if isinstance(layer.module, nn.RNNBase):
        return _of_sequence(layer.module, *layer.arguments) if layer.arguments else []
    if layer.output is None or len(layer.edges) < _MIN_STEPS:
        return []
    edges = [edge for call in layer.edges for edge in call]
    found = torch.autograd.grad(
        layer.output, edges, _direction(layer.output), retain_graph=True, allow_unused=True
    )
    back = iter(found)
    calls = [[next(back) for _ in call] for call in layer.edges]
    return [norm(call) for call in calls if any(x is not None for x in call)]


def _of_sequence(
    module: nn.RNNBase, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[float]:
    """Run the layer alone; by `forward`, so that no hook runs."""
    x, hx, *_ = (*args, *kwargs.values(), None)
    if is_packed(x):  # of the longest rows, all steps are there
        padded, lengths = pad_packed_sequence(x)
        x, hx = padded[:, lengths == lengths.max()], None
        x = x.transpose(0, 1) if module.batch_first else x
    x = x.requires_grad_()
    time = 1 if module.batch_first and x.dim() == 3 else 0
    last = module.forward(x, hx)[0].select(time, -1)
    last = last[..., : last.shape[-1] // (1 + module.bidirectional)]  # forward in time
    (back,) = torch.autograd.grad(last, x, _direction(last))
    return [norm([step]) for step in back.unbind(time)]


def _direction(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator).to(like)


def _rate(norms: list[float]) -> float:
    """Return the geometric mean factor a step, back to where anything is left."""
    first = next(t for t, value in enumerate(norms) if value > _LOST * norms[-1])
    steps = len(norms) - 1 - first
    return float((norms[first] / norms[-1]) ** (1 / steps)) if steps else 0.0


def check(table: Measurements) -> Iterator[Finding]:
    """Report a radius or a growth that is too large, and a rate that is too small."""
    radii, growths = table.of("spectral radius"), table.of("growth over time")
    rates = table.of("rate over time")
    for where, radius in radii.items():
        if radius > _MAX_RADIUS:
            yield Finding(
                fault="spectral radius",
                where=where,
                evidence=f"The spectral radius times the activation's largest slope is "
                f"{radius:.3g}; over 20 steps a linear recurrence would grow {radius**20:.2g} "
                "times.",
                value=radius,
                threshold=_MAX_RADIUS,
                remedy="Initialise the recurrent weight with nn.init.orthogonal_, or divide it by "
                "its radius.",
            )
    for where, growth in growths.items():
        if _MAX_GROWTH < growth < float("inf"):
            yield Finding(
                fault="exploding through time",
                where=where,
                evidence=f"A gradient from the last step is up to {growth:.3g} times larger at an "
                "earlier one.",
                value=growth,
                threshold=_MAX_GROWTH,
                remedy="Initialise the recurrent weight with nn.init.orthogonal_, use an LSTM or "
                "GRU, truncate the sequences, and clip by norm.",
            )
    for where, rate in rates.items():
        if rate < _MIN_RATE:
            yield Finding(
                fault="vanishing through time",
                where=where,
                evidence=f"A gradient from the last step falls by a factor {rate:.3g} a step: "
                f"after 10 steps {rate**10:.1g} of it is left.",
                value=rate,
                threshold=_MIN_RATE,
                remedy="Use an LSTM or GRU with a forget bias of 1, or an orthogonal recurrent "
                "weight.",
            )
