"""What the record of a training run shows. A row of the frame is a step."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from fairclip.diagnosis._finding import Fault, Finding
from fairclip.diagnosis._learning_rate import MAX_UPDATE_RATIO
from fairclip.diagnosis._measurements import Measurements

_COLUMNS = ("norm_uncapped", "norm_clipped", "update_norm", "update_ratio", "nonfinite")
# Medians of fewer steps are noise.
_MIN_STEPS = 20
_NEEDS: dict[Fault, tuple[str, ...]] = {
    "exploding gradients": ("norm_uncapped",),
    "large update": ("norm_clipped", "update_norm"),
    "learning rate": ("update_ratio",),
    "vanishing gradients": ("norm_uncapped", "update_ratio"),
}
# Steps before, or after, that one is compared with.
_WINDOW = 50
# Norms vary by small factors between batches; these are orders of magnitude.
_MAX_SPIKE = 100.0
_MAX_GROWTH = 1e3
# A run whose gradient has fallen this far, with updates below what float32 resolves of a weight
# (2^-23), changes nothing any more. Less than that is convergence.
_MIN_NORM = 1e-6
_MIN_UPDATE = 2.0**-23
# Times the running median, of the update and of its ratio to the clipped gradient.
_MAX_UPDATE = 10.0


def measure(frame: pd.DataFrame) -> Measurements:
    """Keep the figures of each step.

    Raises:
        TypeError: If it is not a DataFrame.
        ValueError: If it has none of the columns.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"`trace` must be a Trace or its frame, got {type(frame).__name__}.")
    if not set(_COLUMNS) & set(frame.columns):
        raise ValueError(f"`trace` must have one of the columns {', '.join(_COLUMNS)}.")
    table = Measurements()
    for column in _COLUMNS:
        for row, value in _column(frame, column).items():
            table.add(column, f"step {_step(frame, row)}", float(value))
    for fault, columns in _NEEDS.items():
        n_steps = min(len(_column(frame, column)) for column in columns)
        if n_steps < _MIN_STEPS:
            needed = f"{_MIN_STEPS} steps with {' and '.join(columns)}"
            table.add(fault, "run", math.nan, f"needs {needed}, got {n_steps}")
    return table


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column by row, without what was not measured; empty if it is missing."""
    if name not in frame:
        return pd.Series(dtype=float)
    return frame[name].astype(float).set_axis(pd.RangeIndex(len(frame))).dropna()


def _step(frame: pd.DataFrame, row: Any) -> int:
    """Return the step of a row; a resumed run may have a step twice."""
    return int(frame["step"].iloc[row] if "step" in frame else row)


def _span(frame: pd.DataFrame, column: pd.Series) -> str:
    return f"steps {_step(frame, column.index[0])} to {_step(frame, column.index[-1])}"


def _usual(column: pd.Series) -> pd.Series:
    """Return the median of the steps before each."""
    return column.rolling(_WINDOW, min_periods=_MIN_STEPS // 2).median().shift()


def _passing(column: pd.Series) -> pd.Series:
    """Return the ratio to what is usual before and after: a schedule's changes last."""
    before, after = _usual(column), _usual(column[::-1])[::-1]
    return column / before.mask(after > before, after)


def _ends(column: pd.Series) -> tuple[float, float]:
    """Return the medians of the first and of the last tenth."""
    n = max(_MIN_STEPS // 4, len(column) // 10)
    return float(column.iloc[:n].median()), float(column.iloc[-n:].median())


def nonfinite(frame: pd.DataFrame) -> Iterator[Finding]:
    """Report steps whose gradient was not finite."""
    flags = _column(frame, "nonfinite")
    rows = flags.index[flags > 0]
    if len(rows):
        row = frame.iloc[rows[0]]
        groups = [name for name in map(str, frame) if name.startswith("nonfinite[") and row[name]]
        places = [str(row.get("first_nonfinite", "")), *(name[10:-1] for name in groups)]
        yield Finding(
            fault="non-finite values",
            where=", ".join([f"step {_step(frame, rows[0])}", *filter(None, places)]),
            evidence=f"The gradient of {len(rows)} of {len(flags)} steps held inf or NaN, here "
            "first.",
            value=float(len(rows)),
            threshold=0.0,
            remedy="Run fairclip.diagnose on the batch of that step; it names the layer.",
        )


def exploding(frame: pd.DataFrame) -> Iterator[Finding]:
    """Report the worst spike against a running median, else growth from first to last."""
    norms = _column(frame, "norm_uncapped")
    if len(norms) < _MIN_STEPS:
        return
    spikes = (norms / _usual(norms))[lambda ratio: (ratio > _MAX_SPIKE) & (ratio < float("inf"))]
    first, last = _ends(norms)
    if len(spikes):
        row = int(spikes.index[int(spikes.argmax())])
        yield Finding(
            fault="exploding gradients",
            where=f"step {_step(frame, row)}",
            evidence=f"{len(spikes)} of {len(norms)} steps spike; here the norm is "
            f"{norms[row]:.3g}, {spikes.max():.3g} times the running median.",
            value=float(spikes.max()),
            threshold=_MAX_SPIKE,
            remedy="Run fairclip.diagnose on the batch of that step, and clip by norm at a few "
            "times the median.",
        )
    elif first > 0 and _MAX_GROWTH < last / first < float("inf"):
        yield Finding(
            fault="exploding gradients",
            where=_span(frame, norms),
            evidence=f"The median norm grew from {first:.3g} to {last:.3g}.",
            value=last / first,
            threshold=_MAX_GROWTH,
            remedy="Lower the learning rate or add weight decay, and run fairclip.diagnose on the "
            "model as it is now.",
        )


def vanishing(frame: pd.DataFrame) -> Iterator[Finding]:
    """Report a run whose gradient and updates have both become nothing."""
    norms, ratios = _column(frame, "norm_uncapped"), _column(frame, "update_ratio")
    if min(len(norms), len(ratios)) < _MIN_STEPS:
        return
    (first, last), (_, update) = _ends(norms), _ends(ratios)
    if last < _MIN_NORM * first and update < _MIN_UPDATE:
        yield Finding(
            fault="vanishing gradients",
            where=_span(frame, norms),
            evidence=f"The median norm fell from {first:.3g} to {last:.3g}, and an update changes "
            f"the weights by {update:.2g} of their norm, below float32's resolution.",
            value=last / first,
            threshold=_MIN_NORM,
            remedy="Stop if the loss is where it should be; if not, units are dead or saturated: "
            "run fairclip.diagnose on the model.",
        )


def learning_rate(frame: pd.DataFrame) -> Iterator[Finding]:
    """Report updates that are too large for the weights, for some time at least.

    Too large ones soon make large weights, and are small beside them.
    """
    ratios = _column(frame, "update_ratio")
    usual = ratios.rolling(_MIN_STEPS).median()
    if len(ratios) >= _MIN_STEPS and MAX_UPDATE_RATIO < usual.max() < float("inf"):
        last = _step(frame, usual.idxmax())
        yield Finding(
            fault="learning rate",
            where=f"the {_MIN_STEPS} steps up to {last}",
            evidence=f"The median update changes the weights by {usual.max():.3g} of their norm; "
            "about 0.001 is usual.",
            value=float(usual.max()),
            threshold=MAX_UPDATE_RATIO,
            remedy=f"Divide the learning rate by about {usual.max() / 1e-3:.1g}.",
        )


def large_update(frame: pd.DataFrame) -> Iterator[Finding]:
    """Report the worst update that is large in itself and beside the clipped gradient."""
    norms, updates = _column(frame, "norm_clipped"), _column(frame, "update_norm")
    norms, updates = norms.align(updates, join="inner")
    if len(norms) < _MIN_STEPS:
        return
    both = pd.concat([_passing(updates), _passing(updates / norms)], axis=1)
    ratios = both.min(axis=1, skipna=False)
    large = ratios[(ratios > _MAX_UPDATE) & (ratios < float("inf"))]
    if len(large):
        row = int(large.index[int(large.argmax())])
        yield Finding(
            fault="large update",
            where=f"step {_step(frame, row)}",
            evidence=f"{len(large)} of {len(updates)} updates are larger than their gradients "
            f"explain; here {updates[row]:.3g} after a clipped gradient of {norms[row]:.3g}, "
            f"{large.max():.3g} times what is usual.",
            value=float(large.max()),
            threshold=_MAX_UPDATE,
            remedy="Attach fairclip.clipping.Update or Momentum: what the optimizer remembers is "
            "not clipped with the gradient.",
        )


checks = (nonfinite, exploding, large_update, learning_rate, vanishing)
