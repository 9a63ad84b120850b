"""Gradients that vanish or explode from layer to layer."""

from collections.abc import Iterator

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import norm
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._paths import followers
from fairclip.diagnosis._recorder import Layer
from fairclip.diagnosis._run import Run

# The first layer's share of the largest. torch's default initialisation with ReLU loses a factor
# 2.4 a layer: 1e-2 over six layers, which trains; 1e-4 over eleven, which needs other means.
_MIN_SHARE = 1e-4
# How much larger than at the end it may be. Products of Jacobians within a factor 2 of an isometry
# over ten layers stay below.
_MAX_GROWTH = 1e3


def measure(run: Run, table: Measurements) -> None:
    r"""Measure the gradient that comes back to each layer's outputs, over the whole batch.

    .. math:: \delta_l = \lVert \partial \mathcal L / \partial h_l \rVert_2

    Its course is that of the products of Jacobians alone (Glorot and Bengio 2010, section 4.2.2):
    a weight's gradient also has the activations as a factor, which may hide it. It does not depend
    on the loss's scale or on the layers' widths. A layer is compared with those that it leads to;
    where they end in several heads, with the largest.
    """
    layers = [layer for layer in run.layers if layer.trains and layer.gradient is not None]
    after = followers(layers)
    largest: dict[Layer, float] = {}
    last: dict[Layer, float] = {}
    depth: dict[Layer, int] = {}
    for layer in reversed(layers):
        size = layer.gradient or 0.0
        largest[layer] = max([size, *(largest[x] for x in after[layer])])
        last[layer] = max([last[x] for x in after[layer]], default=size)
        depth[layer] = max([1 + depth[x] for x in after[layer]], default=0)
    for layer in layers:
        table.add("output gradient norm", layer.name, layer.gradient or 0.0)
        table.add("largest output gradient norm from it on", layer.name, largest[layer])
        table.add("output gradient norm at its end", layer.name, last[layer])
        table.add("layers after it", layer.name, depth[layer])
        zeros = [g for name, p, g in run.own(layer) if "bias" not in name and not p.any()]
        if zeros:
            table.add("gradient norm of weights at zero", layer.name, norm(zeros))


def check(table: Measurements) -> Iterator[Finding]:
    """Report the ratio of the first to the largest, and of the largest to the end."""
    norms = _open(table)
    if not norms:
        return
    largest = table.of("largest output gradient norm from it on")
    ends = table.of("output gradient norm at its end")
    depth = table.of("layers after it")
    first = next(iter(norms))
    if norms[first] < _MIN_SHARE * largest[first]:
        share = norms[first] / largest[first]
        yield Finding(
            fault="vanishing gradients",
            where=first,
            evidence=f"The gradient at its outputs ({norms[first]:.3g}) is {share:.2g} of the "
            f"largest in the {depth[first]:.0f} layers after it ({largest[first]:.3g}).",
            value=share,
            threshold=_MIN_SHARE,
            remedy="Use residual connections or normalisation layers, ReLU-like activations in "
            "place of sigmoid or tanh, and He's initialisation.",
        )
    growths = {name: size / ends[name] for name, size in norms.items() if ends[name] > 0}
    peak = max(growths, key=lambda name: growths[name], default=first)
    if growths.get(peak, 0.0) > _MAX_GROWTH:
        growth, n_layers = growths[peak], depth[peak]
        yield Finding(
            fault="exploding gradients",
            where=peak,
            evidence=f"The gradient at its outputs ({norms[peak]:.3g}) is {growth:.3g} times that "
            f"at the end ({ends[peak]:.3g}), a factor {growth ** (1 / n_layers):.3g} a layer over "
            f"{n_layers:.0f} layers.",
            value=growth,
            threshold=_MAX_GROWTH,
            remedy="Use residual connections with normalisation on the branch, or smaller initial "
            "weights; clipping alone keeps the direction that the early layers dictate.",
        )


def _open(table: Measurements) -> dict[str, float]:
    """Return the norms, without those that a later weight at zero blocks only until it moves."""
    norms = table.of("output gradient norm")
    at_zero = table.of("gradient norm of weights at zero")
    order = {name: i for i, name in enumerate(norms)}
    moves = max((order[name] for name, gradient in at_zero.items() if gradient > 0), default=-1)
    return {name: size for name, size in norms.items() if size > 0 or order[name] >= moves}
