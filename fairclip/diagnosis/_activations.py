"""Activations that grow without bound."""

from collections.abc import Iterator

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run

# Xavier's and He's rules keep the variance at that of the inputs from layer to layer. A residual
# stream without normalisation grows like the root of the depth: 10 after 100 blocks.
_MAX_GROWTH = 100.0
# A share of the dtype's largest number: one more layer, or a sum over a row, overflows.
_MAX_OF_DTYPE = 0.1


def measure(run: Run, table: Measurements) -> None:
    """Measure the outputs of each layer: the median row, so that one odd row does not count."""
    for layer in run.layers:
        if layer.rms is None:
            continue
        table.add("activation RMS", layer.name, layer.rms)
        table.add("largest activation over the dtype's", layer.name, layer.largest)


def check(table: Measurements) -> Iterator[Finding]:
    """Report the largest, relative to the first layer's or to 1, whichever is larger."""
    sizes = table.of("activation RMS")
    shares = table.of("largest activation over the dtype's")
    if not sizes:
        return
    first = max(1.0, next(iter(sizes.values())))
    where = max(sizes, key=lambda name: sizes[name])
    growth = sizes[where] / first
    near = max(shares, key=lambda name: shares[name])
    if _MAX_GROWTH < growth < float("inf"):
        yield Finding(
            fault="unbounded activations",
            where=where,
            evidence=f"Its outputs have a root mean square of {sizes[where]:.4g}, "
            f"{growth:.4g} times the first layer's or 1.",
            value=growth,
            threshold=_MAX_GROWTH,
            remedy=_REMEDY,
        )
    elif _MAX_OF_DTYPE < shares[near] < float("inf"):
        yield Finding(
            fault="unbounded activations",
            where=near,
            evidence=f"Its largest output is {shares[near]:.0%} of the largest number of its "
            "dtype.",
            value=shares[near],
            threshold=_MAX_OF_DTYPE,
            remedy=_REMEDY,
        )


_REMEDY = (
    "Normalise the layer's outputs (LayerNorm, BatchNorm), scale residual branches down, or "
    "use an activation that is bounded; scale regression targets."
)
