"""Changes between two models on the same rows, with intervals, each (1 + K,)."""

import numpy as np
from numpy.typing import NDArray

from ._bootstrap import percentile, row_replicates
from ._figures import cell_draws, macro_averages, occurring, rarest_label, stack
from ._intervals import Interval, difference, normal, two_sided
from ._means import mean_intervals
from ._rates import RATES, Floats, Ints, Tally, divide
from ._regression import FIGURES, Moments
from ._rows import Rows
from ._scores import LOSSES, auc_and_influence, parts, row_losses

# Precision is not among them: the rows that it looks at change with the prediction.
_RATES = ("accuracy", "selection_rate", "tpr", "fpr", "fnr")
_MAX_CELLS = 50_000_000


def label_changes(
    rows: Rows,
    before: Ints,
    after: Ints,
    confidence: float,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """Return the changes of what is made of labels."""
    c, k = len(rows.values), len(rows.names)
    if (1 + k) * c**3 > _MAX_CELLS:
        raise ValueError(
            f"`y_preds` of {c} labels in {k} groups are too many cells to compare. Merge labels or "
            "groups."
        )
    tally = rows.tally(before, after)  # (1 + K, C, C, C): label, before, after
    z = two_sided(confidence)
    drawn = _macro_changes(tally, confidence, n_boot, rng)
    if rows.task == "binary":
        changes = {rate: rate_change(tally, rate, z) for rate in _RATES}
        both = difference(changes["tpr"], changes["fpr"])  # of different rows, so independent
        changes["balanced_accuracy"] = Interval(*(bound / 2 for bound in both))
        return changes | {"precision": drawn["precision"]}
    changes = {"accuracy": _accuracy_change(tally, z)}
    changes |= {name: drawn[name] for name in drawn if name != "precision"}
    for label, value in enumerate(rows.values):
        one = tally.against_rest(label, 3)
        for rate in ("selection_rate", "tpr", "fpr"):
            changes[f"{rate}[{value}]"] = rate_change(one, rate, z)
    return changes


def rate_change(tally: Tally, rate: str, z: float) -> Interval:
    """Return the change of a share of rows fixed beforehand, of a tally (1 + K, 2, 2, 2)."""
    success, looked_at = (np.array(mask) for mask in RATES[rate])
    rows = looked_at[:, :1, None]  # by label only, (2, 1, 1)
    gained = (1 - success)[:, :, None] * success[:, None, :] * rows
    lost = success[:, :, None] * (1 - success)[:, None, :] * rows
    return _share_change(tally, gained, lost, rows, z)


def _accuracy_change(tally: Tally, z: float) -> Interval:
    right = np.eye(tally.n.shape[-1], dtype=np.int64)
    gained = (1 - right)[:, :, None] * right[:, None, :]
    lost = right[:, :, None] * (1 - right)[:, None, :]
    return _share_change(tally, gained, lost, np.ones_like(gained), z)


def _share_change(tally: Tally, gained: Ints, lost: Ints, rows: Ints, z: float) -> Interval:
    r"""Change of a share and its interval, from the rows that changed in each direction.

    .. math:: \frac{b - c}{n + 2} \pm z \frac{\sqrt{b + c + 1 - (b - c)^2 / (n + 2)}}{n + 2}

    Weighted rows count as the effective number of rows.

    Source:
        A. Agresti, Y. Min (2005), https://doi.org/10.1002/sim.1781: half a row is added to each of
        the four cells of McNemar's table, so that no change is not taken for certain.
    """
    axes = (-3, -2, -1)
    b, c, total = ((tally.weight * mask).sum(axes) for mask in (gained, lost, rows))
    value = divide(b - c, total)
    n = divide(total**2, (tally.square * rows).sum(axes))
    b, c = (divide(part, total) * n for part in (b, c))
    centre = (b - c) / (n + 2)
    half = z * np.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    low = np.clip(centre - half, -1, value)
    high = np.clip(centre + half, value, 1)
    return Interval(value, low, high)


def score_changes(
    rows: Rows,
    before: Floats,
    after: Floats,
    confidence: float,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """Return the changes of auc, brier and log_loss; NaN bounds where nothing varies.

    The AUC's by DeLong's components, paired; the losses' by drawn rows.
    """
    losses, weights = row_losses(rows, after) - row_losses(rows, before), rows.each_weight()
    value, variance, means = [], [], []
    rngs = rng.spawn(1 + len(rows.names))
    for part, source in zip(parts(rows.codes, len(rows.names)), rngs, strict=True):
        truth, weight = rows.truth[part], weights[part]
        (old, phi_old), (new, phi_new) = (
            auc_and_influence(truth, scores[part], weight) for scores in (before, after)
        )
        value.append(new - old)
        variance.append(((phi_new - phi_old) ** 2).sum())
        own = None if rows.weights is None else weight
        means.append(mean_intervals(losses[part], own, n_boot, source, confidence))
    loss = stack(means)
    return {
        "auc": normal(np.array(value), np.array(variance), two_sided(confidence), -1),
        **{name: Interval(*(bound[i] for bound in loss)) for i, name in enumerate(LOSSES)},
    }


def number_changes(
    rows: Rows,
    before: Floats,
    after: Floats,
    confidence: float,
    n_boot: int,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """Return the changes of the figures of a regression, by drawn rows."""
    found: dict[str, list[Interval]] = {}
    rngs = rng.spawn(1 + len(rows.names))
    for part, source in zip(parts(rows.codes, len(rows.names)), rngs, strict=True):
        truth, weights = rows.truth[part], rows.each_weight()[part]
        old, new = (Moments.of(truth, model[part], weights) for model in (before, after))
        each = np.concatenate([old.each, new.each], axis=1)
        estimate = each.mean(0) if len(each) else np.full(12, np.nan)
        means = np.concatenate([estimate[None], row_replicates(each, n_boot, source)])
        first, second = old.figures(means[:, :6]), new.figures(means[:, 6:])
        for name in FIGURES:
            if name != "mean_true":
                change = second[name] - first[name]
                found.setdefault(name, []).append(_bounds(change, confidence, len(each)))
    return {name: stack(each) for name, each in found.items()}


def _macro_changes(
    tally: Tally, confidence: float, n_boot: int, rng: np.random.Generator
) -> dict[str, Interval]:
    """Return the changes of precision and of the means over labels, by drawn cells."""
    found: dict[str, list[Interval]] = {}
    sizes, occurs = rarest_label(tally), occurring(tally)
    rngs = rng.spawn(len(sizes))
    for weight, square, size, source in zip(tally.weight, tally.square, sizes, rngs, strict=True):
        blocks = [_macro_change(weight[None], occurs)]
        draws = cell_draws(weight, square, n_boot, source)
        blocks += [_macro_change(drawn, occurs) for drawn in draws]
        for name in blocks[0]:
            changes = np.concatenate([block[name] for block in blocks])
            found.setdefault(name, []).append(_bounds(changes, confidence, size))
    return {name: stack(each) for name, each in found.items()}


def _macro_change(cells: Floats, occurs: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the changes, each (n,), from cells (n, C, C, C)."""
    before, after = cells.sum(-1), cells.sum(-2)
    old, new = macro_averages(before, occurs), macro_averages(after, occurs)
    changes = {name: new[name] - old[name] for name in old}
    precision = [divide(part[:, 1, 1], part[:, :, 1].sum(1)) for part in (before, after)]
    return changes | {"precision": precision[1] - precision[0]}


def _bounds(values: Floats, confidence: float, n_rows: float) -> Interval:
    """Return the interval of an estimate, which is the first value, by its replicates."""
    return percentile(np.asarray(values[0]), values[1:], confidence, n_rows)
