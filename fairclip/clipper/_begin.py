"""Which groups a clipper tells apart, and its cap before the first step. Shapes: K groups."""

from collections.abc import Sequence
from dataclasses import replace

from fairclip.capping import NormCap, TargetCap
from fairclip.clipper._codes import Codes
from fairclip.clipper._norm_rule import NormRule
from fairclip.clipper._rule import CapRule
from fairclip.clipper._target_rule import TargetRule
from fairclip.groups import GroupEncoder


def begin_rule(
    cap: NormCap | TargetCap,
    encoder: GroupEncoder | None,
    n_groups: int | None,
    group_counts: Codes | None,
    measure_every: int,
) -> tuple[CapRule, list[str]]:
    """Return the cap's rule before the first step, and the groups' names.

    Raises:
        TypeError: If ``cap`` is no cap.
        ValueError: If the groups are not given in exactly one way, or do not fit the cap; if
            ``measure_every`` is no number of steps.
    """
    if not isinstance(cap, NormCap | TargetCap):
        raise TypeError(f"`cap` must be a cap such as NormCap(max_ratio=2.0), got {cap!r}.")
    if not isinstance(measure_every, int) or measure_every < 1 or measure_every is True:
        raise ValueError(
            f"`measure_every` must be a number of steps, at least 1, got {measure_every!r}."
        )
    if sum(x is not None for x in (encoder, n_groups, group_counts)) != 1:
        raise ValueError("Pass exactly one of `encoder`, `group_counts` and `n_groups`.")
    names, strata = None, None
    if encoder is not None:
        if not hasattr(encoder, "names_"):
            raise ValueError("`encoder` must be fitted: call its `fit` with the training data.")
        names, group_counts = list(encoder.names_), encoder.counts_
        strata = encoder.strata_ if encoder.with_label else None
    if isinstance(cap, TargetCap):
        if group_counts is None:
            raise ValueError(
                "A TargetCap needs the rows of each group in the data: pass `encoder` or "
                "`group_counts` instead of `n_groups`."
            )
        if cap.target == "worst_cell" and encoder is not None and strata is None:
            raise ValueError(
                "`target` is 'worst_cell', which compares cells: fit the encoder as "
                "`GroupEncoder(with_label=True)`."
            )
        target_state = cap.init(group_counts, strata)
        names = names or [str(code) for code in range(len(target_state.counts))]
        return TargetRule(cap, target_state), names
    if names is not None:
        cap = _with_codes(cap, names)
    state = cap.init(group_counts, strata, n_groups=n_groups)
    names = names or [str(code) for code in range(len(state.counts))]
    return NormRule(cap, state, len(names), measure_every), names


def _with_codes(cap: NormCap, names: Sequence[str]) -> NormCap:
    """Return the cap with a reference given by name replaced by codes."""
    if not isinstance(cap.reference, str) or cap.reference in ("minority", "smallest_norm"):
        return cap
    levels = f"{cap.reference}, y="
    codes = tuple(
        code for code, name in enumerate(names) if name == cap.reference or name.startswith(levels)
    )
    if not codes:
        raise ValueError(
            f"`reference` {cap.reference!r} is not a group; the groups are {', '.join(names)}."
        )
    return replace(cap, reference=codes)
