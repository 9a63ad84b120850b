"""Which groups a clipper tells apart, and its cap before the first step. Shapes: K groups."""

from collections.abc import Sequence
from dataclasses import replace

from fairclip.capping import CapState, NormCap
from fairclip.clipper._codes import Codes
from fairclip.groups import GroupEncoder


def begin_cap(
    cap: NormCap,
    encoder: GroupEncoder | None,
    n_groups: int | None,
    group_counts: Codes | None,
) -> tuple[NormCap, CapState, list[str]]:
    """Return the cap with its reference as codes, its state, and the groups' names.

    Raises:
        ValueError: If the groups are not given in exactly one way, or do not fit the cap.
    """
    if sum(x is not None for x in (encoder, n_groups, group_counts)) != 1:
        raise ValueError("Pass exactly one of `encoder`, `group_counts` and `n_groups`.")
    if encoder is not None:
        if not hasattr(encoder, "names_"):
            raise ValueError("`encoder` must be fitted: call its `fit` with the training data.")
        cap = _with_codes(cap, encoder.names_)
        strata = encoder.strata_ if encoder.with_label else None
        return cap, cap.init(encoder.counts_, strata), list(encoder.names_)
    state = cap.init(group_counts, n_groups=n_groups)
    return cap, state, [str(code) for code in range(len(state.counts))]


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
