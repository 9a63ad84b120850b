"""Which faults may be no more than the consequence of others."""

from collections.abc import Sequence

from fairclip.diagnosis._finding import Fault, Finding

# Gradients are products of activations and weights, and an SGD step is a multiple of the gradient:
# an error of scale appears in everything that is computed from it.
_STEP: frozenset[Fault] = frozenset({"large update", "learning rate"})
_GRADIENTS: frozenset[Fault] = _STEP | {"exploding gradients", "vanishing gradients"}
_FORWARD: frozenset[Fault] = _GRADIENTS | {"unbounded activations", "outlier rows"}
_TIME: frozenset[Fault] = frozenset({"exploding through time", "vanishing through time"})

_EXPLAINS: dict[Fault, frozenset[Fault]] = {
    "non-finite values": _FORWARD | _TIME | {"spectral radius"},
    "input scale": _FORWARD | _TIME,
    "initial weights": _FORWARD | _TIME | {"spectral radius"},
    "spectral radius": _FORWARD | _TIME,
    "exploding through time": _FORWARD,
    "vanishing through time": frozenset({"vanishing gradients"}),
    "unbounded activations": _GRADIENTS,
    "outlier rows": _STEP,
    "exploding gradients": _STEP,
    "vanishing gradients": frozenset(),
    "large update": frozenset({"learning rate"}),
    "learning rate": frozenset(),
}


def split(found: Sequence[Finding]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return what nothing else explains, and what may follow from it."""
    explained = frozenset[Fault]().union(*(_EXPLAINS[finding.fault] for finding in found))
    causes = tuple(finding for finding in found if finding.fault not in explained)
    symptoms = tuple(finding for finding in found if finding.fault in explained)
    return causes, symptoms
