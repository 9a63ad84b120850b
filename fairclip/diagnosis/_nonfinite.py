"""inf and NaN, and where they begin."""

import math
from collections.abc import Iterator

from fairclip.diagnosis._batch import tensors
from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import n_nonfinite
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run

_QUANTITY = "non-finite values"

_REMEDY = {
    "parameter": "Load a checkpoint from before the step that broke it, and skip such steps.",
    "input": "Impute or drop missing values, and bound what is divided or put through a log.",
    "output": "Bound what this layer divides, exponentiates or takes the log of, or use bfloat16 "
    "or float32 where float16 overflows.",
    "loss": "Compute the loss from logits (log_softmax, binary_cross_entropy_with_logits), and "
    "check the targets.",
    "gradient": "Add an eps under square roots, norms and divisions after this layer: their "
    "derivative at 0 is infinite.",
}


def measure(run: Run, table: Measurements) -> None:
    """Count them in the order in which one causes the next."""
    counts = {f"parameter {name}": n_nonfinite(p) for name, p in run.model.named_parameters()}
    floats = [x for x in tensors(run.batch.inputs) if x.is_floating_point()]
    counts |= {f"input {i}": n_nonfinite(x) for i, x in enumerate(floats)}
    counts |= {f"output of {layer.name}": layer.n_nonfinite for layer in run.layers}
    counts["loss"] = n_nonfinite(run.losses)
    for layer in reversed(run.layers):  # a backward pass goes from the last to the first
        own = {id(p) for p in layer.module.parameters(recurse=False)}
        found = [g for name, g in run.gradients.items() if id(run.parameters[name]) in own]
        counts[f"gradient of {layer.name}"] = sum(n_nonfinite(g) for g in found if g is not None)
        counts[f"gradient of {layer.name}"] += not math.isfinite(layer.gradient or 0.0)
    for where, count in counts.items():
        table.add(_QUANTITY, where, count)


def check(table: Measurements) -> Iterator[Finding]:
    """Report the first."""
    counts = {where: n for where, n in table.of(_QUANTITY).items() if n}
    if counts:
        where, n = next(iter(counts.items()))
        yield Finding(
            fault="non-finite values",
            where=where,
            evidence=f"{n:.0f} inf or NaN here first; {len(counts) - 1} later places have some.",
            value=n,
            threshold=0.0,
            remedy=_REMEDY[where.partition(" ")[0]],
        )
