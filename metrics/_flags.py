"""What a reader must know before the figures, in plain words. No flag: an empty list."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ._worst import cell_name

_NAMED = 5


def flag_unknown(n_unknown: int, n_rows: int) -> list[str]:
    """Flag rows that belong to no group."""
    if n_unknown == 0:
        return []
    return [
        f"{n_unknown:,} of {n_rows:,} rows lack a sensitive feature: they count in the overall "
        "figures and in no group."
    ]


def flag_small_groups(sizes: NDArray[np.int64], names: Sequence[str], min_size: int) -> list[str]:
    """Flag groups with fewer rows than `min_size`; sizes are (K,)."""
    small = [f"{names[k]} ({sizes[k]})" for k in np.flatnonzero(sizes < min_size).tolist()]
    return _flag_small("groups", small, min_size)


def flag_small_cells(
    sizes: NDArray[Any], names: Sequence[str], values: Sequence[Any], min_size: int
) -> list[str]:
    """Flag (group, label) cells with fewer rows than `min_size`; sizes are (K, C)."""
    small = [
        f"{cell_name(names[k], values[y])} ({sizes[k, y]:.0f})"
        for k, y in np.argwhere((sizes > 0) & (sizes < min_size))
    ]
    return _flag_small("cells", small, min_size)


def _flag_small(what: str, small: list[str], min_size: int) -> list[str]:
    if not small:
        return []
    return [f"Small {what}, fewer than {min_size} rows: {_list(small)}. Read their intervals."]


def flag_undefined(counts: NDArray[Any], names: Sequence[str], values: Sequence[Any]) -> list[str]:
    """Flag figures that are n/a because a group lacks the rows; counts are (K, C, C)."""
    of_label, of_prediction = counts.sum(2), counts.sum(1)  # (K, C)
    if len(values) == 2:
        other, favourable = values
        causes = {
            f"tpr, fnr and balanced accuracy (no row with y={favourable})": of_label[:, 1],
            f"fpr and balanced accuracy (no row with y={other})": of_label[:, 0],
            f"precision (no row predicted {favourable})": of_prediction[:, 1],
        }
    else:
        causes = {
            f"tpr[{v}]{' and balanced accuracy' if of_label[:, c].any() else ''} "
            f"(no row with y={v})": of_label[:, c]
            for c, v in enumerate(values)
        } | {
            f"precision[{v}] and macro precision (no row predicted {v})": of_prediction[:, c]
            for c, v in enumerate(values)
        }
    return [
        f"Undefined: {what} in {_list([names[k] for k in np.flatnonzero(n == 0).tolist()])}."
        for what, n in causes.items()
        if (n == 0).any()
    ]


def flag_trivial(balanced_accuracy: float, selection_rate: float, base_rate: float) -> list[str]:
    """Flag a classifier that hardly looks at its input, which closes most gaps by itself.

    Args:
        balanced_accuracy: Share in [0, 1]; below 0.55 is flagged, below 0.45 as worse than chance.
        selection_rate: Share in [0, 1]; beyond 0.5 to 2 times the base rate is flagged.
        base_rate: Share of the favourable label, in [0, 1].

    Returns:
        At most two messages. NaN is not flagged here.

    Example:
        >>> from fairclip.metrics import flag_trivial
        >>> flag_trivial(0.5, 0.25, 0.25)[0][:46]
        'The model is close to trivial: balanced accura'
    """
    flags = []
    if balanced_accuracy < 0.45:
        flags.append(
            f"The model is worse than chance: balanced accuracy {balanced_accuracy:.3f}. Are the "
            "labels mixed up, or which of them is favourable?"
        )
    elif balanced_accuracy < 0.55:
        flags.append(
            f"The model is close to trivial: balanced accuracy {balanced_accuracy:.3f}. A constant "
            "prediction has no gap either."
        )
    if selection_rate < 0.5 * base_rate or selection_rate > 2 * base_rate:
        flags.append(
            f"The model selects {selection_rate:.3f} of the rows where {base_rate:.3f} have the "
            "favourable label: small gaps may follow from that alone."
        )
    return flags


def flag_levelling_down(
    before: "pd.Series[Any]",
    after: "pd.Series[Any]",
    metric: str,
    *,
    change_high: "pd.Series[Any] | None" = None,
) -> list[str]:
    """Flag a gap that closed more by lowering the highest group than by raising the lowest.

    Args:
        before: The metric by group at the baseline, shares in [0, 1], indexed by group.
        after: The same of the candidate; groups are matched by name.
        metric: What it is called in the message.
        change_high: The upper end of the interval of each group's change, where there is one: the
            message says how sure the fall is, and "may" unless the interval is below 0.

    Returns:
        At most one message; none where a group's value is NaN.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import flag_levelling_down
        >>> before, after = pd.Series({"a": 0.9, "b": 0.8}), pd.Series({"a": 0.8, "b": 0.8})
        >>> flag_levelling_down(before, after, "tpr")[0][:60]
        'The model levels down: the gap in tpr went from 0.100 to 0.0'
    """
    after = after.reindex(before.index)
    if before.isna().any() or after.isna().any():
        return []
    old, new = before.to_numpy(np.float64), after.to_numpy(np.float64)
    highest, lowest = int(old.argmax()), int(old.argmin())
    fall, rise = old[highest] - new[highest], new[lowest] - old[lowest]
    gap_before, gap_after = np.ptp(old), np.ptp(new)
    if not (gap_after < gap_before and fall > max(rise, 0)):
        return []
    moved = f"{'rose' if rise >= 0 else 'fell'} by {abs(rise):.3f}"
    verb, half = "levels down", ""
    if change_high is not None:
        high = float(change_high.reindex(before.index).iloc[highest])
        verb = "levels down" if high < 0 else "may level down"
        half = "" if np.isnan(high) else f" ± {high + fall:z.3f}"
    return [
        f"The model {verb}: the gap in {metric} went from {gap_before:.3f} to "
        f"{gap_after:.3f}, {before.index[highest]} fell by {fall:.3f}{half}, "
        f"{before.index[lowest]} {moved}."
    ]


def flag_idle_cap(acted_share: float) -> list[str]:
    """Flag a cap that (almost) never acted, so that what changed is not its doing.

    Args:
        acted_share: Share of the steps in which a factor differed from 1, in [0, 1].

    Returns:
        At most one message, below 0.01. NaN (no cap) is not flagged.

    Example:
        >>> from fairclip.metrics import flag_idle_cap
        >>> flag_idle_cap(0.0)
        ['The cap acted in 0.0% of the steps: differences to the baseline are not its doing.']
    """
    if not acted_share < 0.01:
        return []
    return [
        f"The cap acted in {acted_share:.1%} of the steps: differences to the baseline are not its "
        "doing."
    ]


def flag_capped_less_accurate(
    mean_factor: "pd.Series[Any]", accuracy: "pd.Series[Any]"
) -> list[str]:
    """Flag a cap that held back groups which were less accurate than the others to begin with.

    By half a point at least, in the mean over groups, which is one over cells where they are those.

    Args:
        mean_factor: Mean factor by group, dimensionless; below 0.99 counts as capped.
        accuracy: The baseline's accuracy by group, shares in [0, 1]; matched by name.

    Returns:
        At most one message; none where all groups or no group is capped.

    Example:
        >>> import pandas as pd
        >>> from fairclip.metrics import flag_capped_less_accurate
        >>> found = flag_capped_less_accurate(
        ...     pd.Series({"sex=male": 0.5, "sex=female": 1.0}),
        ...     pd.Series({"sex=male": 0.81, "sex=female": 0.92}),
        ... )
        >>> found[0][:55]
        'The cap held back groups that are the less accurate one'
    """
    accuracy = accuracy.reindex(mean_factor.index)
    capped = mean_factor < 0.99
    behind = accuracy[~capped].mean() - accuracy[capped].mean()
    if not behind >= 0.005:  # NaN where one side is empty
        return []
    return [
        f"The cap held back groups that are the less accurate ones: "
        f"{_list([str(group) for group in mean_factor.index[capped]])} "
        f"(mean of their accuracies {accuracy[capped].mean():.3f}; the others "
        f"{accuracy[~capped].mean():.3f})."
    ]


def _list(items: list[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more
