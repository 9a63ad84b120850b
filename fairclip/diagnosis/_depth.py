"""Gradients that vanish or explode from layer to layer."""

from collections.abc import Iterator

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run

# The first layer's share of the largest. torch's default initialisation with ReLU loses a factor
# 2.4 a layer: 1e-2 over six layers, which trains; 1e-4 over eleven, which needs other means.
_MIN_SHARE = 1e-4
# How much larger than at the last layer it may be. Products of Jacobians within a factor 2 of an
# isometry over ten layers stay below.
_MAX_GROWTH = 1e3


def measure(run: Run, table: Measurements) -> None:
    r"""Measure the gradient that comes back to each layer's outputs, over the whole batch.

    .. math:: \delta_l = \lVert \partial \mathcal L / \partial h_l \rVert_2

    Its course is that of the products of Jacobians alone (Glorot and Bengio 2010, section 4.2.2):
    a weight's gradient also has the activations as a factor, which may hide it. It does not depend
    on the loss's scale or on the layers' widths.
    """
    for layer in run.layers:
        if layer.trains and layer.gradient is not None:
            table.add("output gradient norm", layer.name, layer.gradient)


def check(table: Measurements) -> Iterator[Finding]:
    """Report the ratio of the first to the largest, and of the largest to the last."""
    norms = table.of("output gradient norm")
    if len(norms) < 2:
        return
    names = list(norms)
    first, last = names[0], names[-1]
    peak = max(norms, key=lambda name: norms[name])
    # A last layer that starts at zero lets nothing through yet: it will after one step.
    blocked = norms[first] == 0 and 0.0 in table.of("weight scale").values()
    if norms[first] < _MIN_SHARE * norms[peak] and not blocked:
        share = norms[first] / norms[peak]
        yield Finding(
            fault="vanishing gradients",
            where=first,
            evidence=f"The gradient at its outputs ({norms[first]:.3g}) is {share:.2g} of that at "
            f"{peak} ({norms[peak]:.3g}), {_rate(share, names.index(peak))}.",
            value=share,
            threshold=_MIN_SHARE,
            remedy="Use residual connections or normalisation layers, ReLU-like activations in "
            "place of sigmoid or tanh, and He's initialisation.",
        )
    if norms[last] > 0 and norms[peak] > _MAX_GROWTH * norms[last]:
        growth = norms[peak] / norms[last]
        steps = names.index(last) - names.index(peak)
        yield Finding(
            fault="exploding gradients",
            where=peak,
            evidence=f"The gradient at its outputs ({norms[peak]:.3g}) is {growth:.3g} times that "
            f"at {last} ({norms[last]:.3g}), {_rate(growth, steps)}.",
            value=growth,
            threshold=_MAX_GROWTH,
            remedy="Use residual connections with normalisation on the branch, or smaller initial "
            "weights; clipping alone keeps the direction that the early layers dictate.",
        )


def _rate(ratio: float, n_layers: int) -> str:
    return f"a factor {ratio ** (1 / max(n_layers, 1)):.3g} a layer over {n_layers} layers"
