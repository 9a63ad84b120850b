"""The scale of the weights against the usual rules for initial ones."""

from collections.abc import Iterator
from statistics import median

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import rms
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run
from fairclip.diagnosis._weighted import fans, input_weights, n_gates

# How far a weight may be above the largest of the rules: training makes weights grow by small
# factors, while a standard normal 64 x 64 weight is 5.7 times too large.
_MAX_ABOVE = 4.0
# How far the median layer may be below the smallest of the rules. GPT-2 makes some layers 7 times
# smaller than that on purpose, and a last layer is often made much smaller: hence the median.
_MIN_BELOW = 0.1
# A weight with fewer elements has no scale to speak of, and may well be large when trained.
_MIN_ELEMENTS = 256


def measure(run: Run, table: Measurements) -> None:
    r"""Compare the root mean square of each weight with the range of the usual rules.

    The rules for the standard deviation, with :math:`i` and :math:`o` for fan-in and fan-out:
    :math:`\sqrt{2 / (i + o)}` (Glorot and Bengio 2010, eq. 12 and 16),
    :math:`\sqrt{2 / i}` and :math:`\sqrt{2 / o}` (He et al. 2015, eq. 10 and 14), and
    :math:`\sqrt{1 / 3i}`, torch's default. 1 is anything between the smallest and the largest.
    """
    for layer in run.layers:
        for name, weight in input_weights(layer.module):
            if weight.numel() < _MIN_ELEMENTS:
                continue
            i, o = fans(weight, n_gates(layer.module))
            rules = ((2 / (i + o)) ** 0.5, (2 / i) ** 0.5, (2 / o) ** 0.5, (1 / (3 * i)) ** 0.5)
            size = rms(weight)
            scale = size / min(max(size, min(rules)), max(rules))
            table.add("weight scale", f"{layer.name}.{name}", scale)


def check(table: Measurements) -> Iterator[Finding]:
    """Report a weight that is far too large, or a model whose weights are far too small."""
    scales = {where: scale for where, scale in table.of("weight scale").items() if scale > 0}
    if not scales:  # all zero: made so on purpose
        return
    where = max(scales, key=lambda name: scales[name])
    middle = median(scales.values())
    if _MAX_ABOVE < scales[where] < float("inf"):
        yield Finding(
            fault="initial weights",
            where=where,
            evidence=f"Its root mean square is {scales[where]:.3g} times the largest that Xavier's "
            f"and He's rules give.",
            value=scales[where],
            threshold=_MAX_ABOVE,
            remedy=_REMEDY,
        )
    elif middle < _MIN_BELOW:
        yield Finding(
            fault="initial weights",
            where=min(scales, key=lambda name: scales[name]),
            evidence=f"The root mean square of the median of {len(scales)} weights is {middle:.3g} "
            f"times the smallest that Xavier's, He's and torch's rules give; here it is least.",
            value=middle,
            threshold=_MIN_BELOW,
            remedy=_REMEDY,
        )


_REMEDY = (
    "Initialise with nn.init.kaiming_normal_ before ReLU-like activations or "
    "nn.init.xavier_normal_ before tanh-like ones; if they were trained, add weight decay."
)
