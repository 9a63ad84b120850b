"""inf and NaN, and where they begin."""

import math
from collections.abc import Iterator

from fairclip.diagnosis._batch import tensors
from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import n_nan, n_nonfinite
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
    parameters = {f"parameter {name}": n_nonfinite(p) for name, p in run.model.named_parameters()}
    later = {f"output of {x.name}": x.n_nonfinite for x in run.layers if x.rms is not None}
    later["loss"] = n_nonfinite(run.losses)
    for layer in reversed(run.layers):  # a backward pass goes from the last to the first
        count = sum(n_nonfinite(gradient) for _, _, gradient in run.own(layer))
        count += not math.isfinite(layer.gradient or 0.0)
        later[f"gradient of {layer.name}"] = count
    floats = [x for x in tensors(run.batch.inputs) if x.is_floating_point()]
    # A mask may well be infinite, as long as nothing that is made with it is.
    count_of = n_nonfinite if any(later.values()) else n_nan
    inputs = {f"input {i}": count_of(x) for i, x in enumerate(floats)}
    for where, count in (parameters | inputs | later).items():
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
