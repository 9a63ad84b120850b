"""Bound the groups' gradient norms by a reference group's. Shapes: K groups, L layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self, TypeVar

import numpy as np
from torch import Tensor

from fairclip._arrays import Array, given_as, host_view, namespace, to_host
from fairclip.capping._plan import Plan, warn_of_small_groups
from fairclip.capping._state import CapState
from fairclip.capping._strata import make_strata

_RULES = ("minority", "smallest_norm")
_Given = TypeVar("_Given", bound=Tensor | np.ndarray[Any, Any])


@dataclass(frozen=True, slots=True)
class NormCap:
    r"""Scale each demographic group's contribution down to ``max_ratio`` times a reference norm.

    .. math::
        f_k = \min\bigl(1, \max(\phi_k, \rho R / N_k)\bigr), \qquad f_\text{ref} = 1

    with :math:`N_k` the norm of group k's contribution, :math:`R` the reference group's,
    :math:`\rho` = ``max_ratio`` and the floor :math:`\phi_k`. With ``smoothing`` both norms are
    averages over the steps in which the group was present, so that the *smoothed* ratio is
    bounded and single steps exceed it.

    At the edges: a factor is 1 where :math:`N_k = 0`, :math:`R = 0` or the group has no norm yet.
    A norm that is not finite makes all factors of the step 1 and changes no average. A reference
    without a norm (not seen yet; without smoothing: not in the batch) is replaced by the stratum's
    next smallest group; a stratum without any keeps its factors at 1.

    Args:
        max_ratio: Bound on the ratio of norms, dimensionless, positive, also below 1. ``inf``
            measures only.
        reference: ``"minority"``, the group of each stratum with the fewest rows in the data
            (ties: the lowest code); ``"smallest_norm"``; a group's code, or one code per stratum,
            used whatever its rows; or a group's name, which `FairClipper` turns into a code.
        within: ``"all"`` compares all groups; ``"label"`` only those of one label, and then
            multiplies the factors of a label by :math:`\sum n_k / \sum f_k n_k` (rows in the
            data), so that the label keeps its share, or gets that of ``label_balance``. Factors may
            then exceed 1.
        smoothing: Weight of the past in the averages, in [0, 1). 0 looks at this batch only.
        floor: Least factor, a number in [0, 1]; or ``"equal_vote"``,
            :math:`\min(1, n_\text{ref} / n_k)` by rows in the data: no group is held below the
            reference's number of votes.
        preserve_norm: Rescale the capped sum to the norm of the uncapped one (`FairClipper` does).
            Near a point where the capped sum vanishes and the uncapped one does not, the steps
            then keep their length, and training settles only as the learning rate falls.
        scope: ``"global"``, one norm per group; ``"layer"``, one per layer and group.
        min_reference_rows: Groups with fewer rows in the data are never a reference by rule, and
            those of a stratum share one floor as if they were one group.
        max_factor: Largest factor with ``within="label"``, at least 1. The factors of a label are
            limited together, so that their ratios stay; the label then falls short of its share.
        label_balance: With ``within="label"`` and a finite ``max_ratio`` a second dial, between the
            labels: the share of label y grows with :math:`n_y^{1 - b}`, its rows in the data, for b
            in [0, 1]. At 0 every label keeps its share; at 1 all labels have equal shares, as far
            as ``max_factor`` allows. It knows no group, and changes every step's factors: that a
            cap acted says nothing then.

    Raises:
        ValueError: If a field is outside its range, or not one of its words.
        TypeError: If a field is of another type.

    Source:
        PCNGD (https://arxiv.org/abs/2207.00391) *equalises* the norms of the groups' gradients.
        Departure: it is a bound here, from ordinary training (``inf``) to equal votes (near 0).

    Example:
        >>> import torch
        >>> cap = NormCap(max_ratio=2.0)
        >>> state = cap.init(counts=[800, 200])
        >>> norms, batch_counts = torch.tensor([9.0, 3.0]), torch.tensor([24, 8])
        >>> cap(norms, batch_counts, batch_counts > 0, state)
        tensor([0.6667, 1.0000])
    """

    max_ratio: float = 2.0
    reference: str | int | tuple[int, ...] = "minority"
    within: str = "all"
    smoothing: float = 0.95
    floor: str | float = "equal_vote"
    preserve_norm: bool = False
    scope: str = "global"
    min_reference_rows: int = 30
    max_factor: float = 10.0
    label_balance: float = 0.0

    def __post_init__(self) -> None:
        # The ranges are written so that nan fails too.
        numbers = ("max_ratio", "smoothing", "max_factor", "min_reference_rows", "label_balance")
        for name in numbers:
            if not isinstance(getattr(self, name), Real):
                raise TypeError(f"`{name}` must be a number, got {getattr(self, name)!r}.")
        if not self.max_ratio > 0:
            raise ValueError(f"`max_ratio` must be positive, got {self.max_ratio}.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {self.smoothing}.")
        if not self.max_factor >= 1:
            raise ValueError(f"`max_factor` must be at least 1, got {self.max_factor}.")
        if not self.min_reference_rows >= 1:
            raise ValueError(
                f"`min_reference_rows` must be at least 1, got {self.min_reference_rows}."
            )
        if isinstance(self.floor, Real):
            if not 0 <= self.floor <= 1:
                raise ValueError(f"`floor` must be in [0, 1], got {self.floor}.")
        elif self.floor != "equal_vote":
            raise ValueError(f"`floor` must be 'equal_vote' or a number, got {self.floor!r}.")
        if self.within not in ("all", "label"):
            raise ValueError(f"`within` must be 'all' or 'label', got {self.within!r}.")
        has_labels = self.within == "label" and not math.isinf(self.max_ratio)
        if not 0 <= self.label_balance <= has_labels:
            raise ValueError(
                "`label_balance` must be in [0, 1], and 0 unless `within` is 'label' and "
                f"`max_ratio` finite, got {self.label_balance} with {self.within!r} and "
                f"{self.max_ratio}."
            )
        if self.scope not in ("global", "layer"):
            raise ValueError(f"`scope` must be 'global' or 'layer', got {self.scope!r}.")
        if not isinstance(self.preserve_norm, bool):
            raise TypeError(f"`preserve_norm` must be True or False, got {self.preserve_norm!r}.")
        if not isinstance(self.reference, str) and not all(
            isinstance(code, Integral) and code >= 0 for code in self._codes or (None,)
        ):
            raise ValueError(
                "`reference` must be 'minority', 'smallest_norm', a group's name, its code (0 or "
                f"more), or a tuple of codes, got {self.reference!r}."
            )

    @classmethod
    def per_step(cls, max_ratio: float = 2.0) -> Self:
        """Return the literal rule: every single step is bounded, by this batch alone, no floor."""
        return cls(max_ratio=max_ratio, smoothing=0.0, floor=0.0)

    def init(
        self,
        counts: Tensor | np.ndarray | Sequence[int] | None = None,
        strata: Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        n_groups: int | None = None,
    ) -> CapState:
        """Return the state before the first step.

        Args:
            counts: (K,) rows of each group in the data set. None counts the rows of all calls, so
                that the reference and the floors may change while training.
            strata: (K,) label code of each group, needed with ``within="label"``.
            n_groups: K, needed where ``counts`` is None.

        Raises:
            ValueError: If the arguments do not fit each other or the fields.

        Warns:
            FairclipWarning: If groups are pooled, or a stratum has no reference.
        """
        if counts is None and n_groups is None:
            raise ValueError("`counts` or `n_groups` must be given.")
        fixed = counts is not None
        rows = to_host([0] * (n_groups or 0) if counts is None else counts)
        if rows.ndim != 1 or len(rows) == 0 or n_groups not in (None, len(rows)):
            raise ValueError(
                f"`counts` must be one number per group, got shape {rows.shape} with `n_groups` "
                f"{n_groups}."
            )
        if rows.dtype.kind not in "iu" or rows.min() < 0:
            raise ValueError(f"`counts` must be whole numbers of rows, got {rows.tolist()}.")
        if isinstance(self.reference, str) and self.reference not in _RULES:
            raise ValueError(
                f"`reference` {self.reference!r} is a group's name, which only `FairClipper` with "
                f"an `encoder` can look up; or use one of {_RULES}, or the group's code."
            )
        if self.within == "label" and strata is None:
            raise ValueError(
                "`within` is 'label', so `strata` must be given: fit the encoder as "
                "`GroupEncoder(with_label=True)`."
            )
        labels = strata if self.within == "label" else None
        compared = make_strata(len(rows), labels, self._codes)
        rows = rows.astype(np.int64)  # a copy
        if fixed and not math.isinf(self.max_ratio):
            warn_of_small_groups(rows, compared, self.min_reference_rows)
        return CapState(compared, rows, fixed=fixed, min_rows=self.min_reference_rows)

    def __call__(
        self, norms: _Given, batch_counts: _Given, present: _Given, state: CapState, /
    ) -> _Given:
        """Return one factor per norm and update ``state`` in place; no host synchronisation.

        Args:
            norms: Norms of the contributions in this batch; those of absent groups are ignored.
            batch_counts: Rows of each group in this batch.
            present: Which groups have rows in this batch.
            state: Of `init`.

        Shape:
            - ``norms``: ``(K,)``, or ``(L, K)`` with ``scope="layer"``, float32 or float64; the
              output is the same.
            - ``batch_counts``, ``present``: ``(K,)``, integer and bool.

            All are tensors on one device, or all are numpy arrays.

        Returns:
            The factors. That of an absent group acts on nothing: without smoothing it is 1, else
            the one that its average gives.
        """
        expected = (1 if self.scope == "global" else 2, len(state.counts))
        if (norms.ndim, norms.shape[-1]) != expected:
            raise ValueError(
                f"`norms` must be (K,) for scope='global' and (L, K) for scope='layer' with K = "
                f"{len(state.counts)}, got {tuple(norms.shape)} for scope={self.scope!r}."
            )
        arrays = [host_view(array) for array in (norms, batch_counts, present)]
        with np.errstate(all="ignore"):  # 0 / 0 and the like never reach a factor
            results = self._compare(state, *arrays)
        factors, state.reference, state.averages = (given_as(norms, array) for array in results)
        like_norms: _Given = factors
        return like_norms

    def _compare(
        self, state: CapState, norms: Array, batch_counts: Array, present: Array
    ) -> tuple[Array, Array, Array]:
        """Return the factors, the code that each group was compared with, and the averages."""
        xp = namespace(norms)
        averages, comparable, plan = state.update_(norms, batch_counts, present, self.smoothing)
        is_usable = comparable.any()  # not so after a norm that is not finite
        if self.reference == "smallest_norm":
            comparable = comparable & plan.eligible  # (K, K)
            key = xp.where(comparable, averages[..., None, :], plan.resort)  # also (L, K, K)
            code, length = key.argmin(-1), xp.amin(key, -1)
        else:
            code = xp.where(comparable, plan.rank, plan.resort).argmin(-1)  # (K,)
            length = averages[..., code]
        group = state.strata.group
        reference = xp.where(length > 0, code, group)  # like norms
        factors = length * self.max_ratio / averages
        capped = (factors < 1) & (reference != group)
        factors = xp.where(capped, factors.clip(self._floor(plan, reference)), 1.0)
        if self.within == "label":
            factors = xp.where(is_usable, self._share_out(factors, plan), 1.0)
            if self.smoothing == 0:
                factors = xp.where(present, factors, 1.0)
        return factors, reference, averages

    def _floor(self, plan: Plan, reference: Array) -> Array:
        """Return the least factor, or that of each group, (K,) or (L, K)."""
        if not isinstance(self.floor, str):
            return self.floor
        if self.reference == "smallest_norm":  # each step designates its own reference
            return (plan.counts[reference] / plan.votes).clip(0.0, 1.0)
        return plan.floor

    def _share_out(self, factors: Array, plan: Plan) -> Array:
        """Return factors scaled so that each label has its share of the weighted rows."""
        xp = namespace(factors)
        # A stratum without rows yet: 0 / 0 becomes 1.
        eps = xp.finfo(factors.dtype).eps
        kept = (factors[..., None, :] * plan.rows).sum(-1)  # like factors
        of_label = plan.rows.sum(-1)  # (K,)
        scale = (of_label + eps) / (kept + eps)
        if self.label_balance:
            # Over the largest, so that a single label weighs exactly 1.
            weights = (of_label.clip(1.0) / of_label.max().clip(1.0)) ** -self.label_balance  # (K,)
            total, weighted = plan.counts.sum(), (weights * plan.counts).sum()
            scale = scale * weights * ((total + eps) / (weighted + eps))
        largest = xp.amax(xp.where(plan.rows > 0, factors[..., None, :], 0.0), -1)  # like factors
        return factors * xp.minimum(scale, self.max_factor / xp.where(largest > 0, largest, 1.0))

    @property
    def _codes(self) -> tuple[int, ...]:
        if isinstance(self.reference, str):
            return ()
        return self.reference if isinstance(self.reference, tuple) else (self.reference,)
