"""The rows that make the gradient's norm an outlier. B is rows."""

import math
from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor

from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._host import norm, values
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._run import Run

_QUANTITY = "row gradient norm"
_USUAL = "usual row gradient norm"
# Rows that are looked at because their loss, or its gradient at the output, is the largest.
_N_SUSPECTS = 4
# Rows that say what is usual. A median of 16 moves by a fifth of the spread from draw to draw.
_N_USUAL = 16
# Times the median: a confidently wrong row of an untrained classifier has about 5.
_MAX_RATIO = 20.0
# Robust standard deviations of the logarithm above the median: in a trained model the norms of the
# rows differ by orders of magnitude, and then a large one is no outlier.
_MAX_DEVIATIONS = 5.0
# The upper quartile of a normal variable, times this, is its standard deviation.
_NORMAL = 1.4826


def measure(run: Run, table: Measurements) -> None:
    """Measure the gradient of single rows: suspects, and usual ones, spread over all."""
    losses, n_rows = run.losses, run.batch.n_rows
    if losses.dim() == 0 or losses.shape[0] != n_rows:
        table.add(_QUANTITY, "batch", math.nan, "the loss has no rows, so they cannot be told")
        return
    if n_rows < 2 * _N_SUSPECTS + _N_USUAL // 2:
        table.add(_QUANTITY, "batch", math.nan, f"{n_rows} rows are too few to tell an outlier")
        return
    by_row = losses.reshape(n_rows, -1).mean(1)
    suspects, usual = _choose(values(by_row), _at_output(run, by_row))
    for i in sorted(suspects | usual):
        found = torch.autograd.grad(
            by_row[i], list(run.parameters.values()), retain_graph=True, allow_unused=True
        )
        for quantity in (_QUANTITY, _USUAL)[: 1 + (i in usual)]:
            table.add(quantity, f"row {i}", norm(found))


def _at_output(run: Run, by_row: Tensor) -> Tensor:
    """Return the norm of each row's gradient with respect to the model's output, (B,)."""
    outputs = [x for x in run.outputs if x.dim() and x.shape[0] == len(by_row)][:1]
    if not outputs:
        return torch.zeros(len(by_row))
    (found,) = torch.autograd.grad(by_row.sum(), outputs, retain_graph=True, allow_unused=True)
    if found is None:
        return torch.zeros(len(by_row))
    norms: Tensor = torch.linalg.vector_norm(values(found).flatten(1), dim=1)
    return norms


def _choose(losses: Tensor, at_output: Tensor) -> tuple[set[int], set[int]]:
    order = at_output.argsort(descending=True).tolist()
    suspects = {*order[:_N_SUSPECTS], *losses.argsort(descending=True)[:_N_SUSPECTS].tolist()}
    return suspects, {order[i * len(order) // _N_USUAL] for i in range(_N_USUAL)}


def check(table: Measurements) -> Iterator[Finding]:
    """Report rows far from the others, by ratio and by robust deviations of the logarithm."""
    usual = [math.log(x) for x in table.of(_USUAL).values() if 0 < x < math.inf]
    if len(usual) < _N_USUAL // 2:
        return
    middle = median(usual)
    deviation = _NORMAL * median(x - middle for x in usual if x >= middle)
    threshold = math.exp(max(math.log(_MAX_RATIO), _MAX_DEVIATIONS * deviation))
    ratios = {where: x / math.exp(middle) for where, x in table.of(_QUANTITY).items()}
    outliers = {where: r for where, r in ratios.items() if threshold < r < math.inf}
    if outliers:
        ordered = sorted(outliers, key=lambda where: -outliers[where])
        yield Finding(
            fault="outlier rows",
            where=", ".join(ordered),
            evidence="Gradient norms, as multiples of the median row's: "
            + ", ".join(f"{where} {outliers[where]:.3g}" for where in ordered)
            + ".",
            value=outliers[ordered[0]],
            threshold=threshold,
            remedy="Check these rows' inputs and targets, use a loss that is bounded in its slope "
            "(huber_loss), or clip the gradient of each row.",
        )
