"""The floor: a plain step and only those kernels that no exact method can do without.

It is the plain step and, for every call of a Linear layer or a convolution:

- the input rows and the output gradients of all groups but the largest, gathered by one kernel each
  (one more zeroes the padding where groups differ in size; images are laid out as patches);
- the norm of each of these groups, and that of the largest from what their sum leaves of the total:
  from the groups' gradients or from the Gramian of their rows, whichever is the quicker for this
  call on this machine (`Materialised`, `ByConvolution`, `FromRows`; for small models also all
  layers as one vector, `Flat` and `OnHost`);
- the norms of all layers put together, the cap's formula, and one write that corrects the total.

It works on tensors that were kept from one pass, rows first. So it has no hooks and captures
nothing; it checks nothing, records nothing and has no state; and it leaves out what other layers
own (norm layers, embeddings). It is what would be left of any library that cost nothing itself.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from tests.benchmarks._floor_host import OnHost
from tests.benchmarks._floor_kernels import ByConvolution, Flat, FromRows, Materialised, Part
from tests.benchmarks._floor_layers import Layer, record
from tests.benchmarks._interleave import Call, fastest
from tests.benchmarks._step_arms import Backward, capped, plain, reference
from tests.benchmarks._step_models import Batch

_FLAT = 2**20  # parameters; above, copying them costs more than it saves


def floor(model: nn.Module, batch: Batch) -> Backward:
    """Make the floor's step."""
    layers, compared, gradients = record(model, batch), reference(batch), plain(model, batch)
    parts = [_quickest(_ways(layer), compared) for layer in layers]
    corrections: list[Call] = [partial(cap, parts, compared)]
    if sum(p.numel() for p in model.parameters()) <= _FLAT:
        corrections.append(partial(cap, [Flat(layers)], compared))
        if OnHost.takes(layers):
            corrections.append(OnHost(layers, compared))
    correct = corrections[fastest(corrections)]
    model.zero_grad()

    def backward() -> None:
        gradients()
        correct()

    return backward


def _ways(layer: Layer) -> list[Part]:
    ways: list[Part] = [Materialised(layer)]
    inputs, grads = layer.rows()
    (_, n_rows, d_in), d_out = inputs.shape, grads.shape[-1]
    if n_rows * (d_in + d_out) < 2 * d_in * d_out:  # else it takes far more operations, and memory
        ways.append(FromRows(layer))
    return [*ways, ByConvolution(layer)] if layer.convolution else ways


def _quickest(ways: Sequence[Part], compared: int) -> Part:
    return ways[fastest([partial(cap, [way], compared) for way in ways])]


def cap(parts: Sequence[Part], compared: int) -> None:
    """Cap the gradients that a backward pass left."""
    measured = [part.measure() for part in parts]
    largest = torch._foreach_norm([rest for rests, _ in measured for rest in rests])
    smaller = [norm for _, norms in measured for norm in norms]  # (S,) each
    norms = torch.cat((torch.stack(largest).norm()[None], torch.stack(smaller).norm(dim=0)))
    factors = capped(norms, compared)
    others = factors[1:] - factors[0]
    for part in parts:
        part.correct(factors[0], others)
