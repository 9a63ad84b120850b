"""Lower the weight of groups that are predicted better than a target asks. Shapes: K groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from fairclip._arrays import Array, given_as, host_view, namespace, to_host
from fairclip.capping._plan import make_plan, warn_of_small_groups
from fairclip.capping._strata import make_strata
from fairclip.capping._target_state import TargetState

_TARGETS = ("equalized_odds", "equal_opportunity", "accuracy", "worst_cell")
_Given = TypeVar("_Given", bound=Tensor | np.ndarray[Any, Any])


@dataclass(frozen=True, slots=True)
class TargetCap:
    r"""Scale a demographic group's rows down while its recall is over the least by more than a gap.

    .. math::
        \log f_k \leftarrow \text{clamp}\bigl(\log f_k - \eta\,(r_k - \min_j r_j - \gamma),
            \; \log \phi_k, \; 0\bigr)

    at every observation, with :math:`r_k` the recall of group k (its rows that were predicted right
    over its rows, both smoothed), the minimum over the groups of its stratum, :math:`\eta` =
    ``rate``, :math:`\gamma` = ``gap`` and the floor :math:`\phi_k`. The factors that are applied
    are

    .. math:: f_k \min\left(\frac{\sum_j n_j}{\sum_j f_j n_j}, \frac{m}{\max_j f_j}\right)

    with the stratum's rows :math:`n_j` in the data and :math:`m` = ``max_factor``, so that a label
    keeps its share of the training whatever the recalls, as far as no factor exceeds m for it.

    It is adaptive reweighting of rows: no gradient is measured, and none is bounded. What it looks
    at are predictions in training, cut or as probabilities; recalls at another cut are others. What
    to know before using it:

    - The factors accumulate. One falls by :math:`\eta\,(r_k - \min_j r_j - \gamma)` an observation,
      and rises by :math:`\eta\gamma` where its recall is the least, by less where it is within the
      gap. From f it is back at 1 after :math:`-\log f / (\eta\gamma)` observations at the earliest:
      347 from one half with the default rate and a gap of 0.02. So it stays low long after the gap
      closed, and what overshot is corrected slowly; the last step is one of many.
    - With ``gap=0`` every cell that is not the smallest ratchets down towards its floor: at each
      observation all fall but the one with the least recall, and none rises.
    - "equal_vote" gives the smallest cell of a stratum the floor 1. Where that is the better
      predicted one, as women with y=0 on Adult, the rule can do nothing there; a number as
      ``floor`` can.
    - The recall of a cell with few rows in a batch is noise, and its factor wanders with it.
    - Recalls also come close where a model drifts towards a constant prediction, which has a gap of
      0 within each label: look at balanced accuracy and at the rates of each group beside it.
    - On training rows that a model knows by heart all recalls are 1 and nothing is capped: observe
      held-back rows then.

    At the edges: a group that was never observed has the factor 1 before rescaling and no part in
    the minimum. One that is absent from an observation keeps its recall. The only group of a
    stratum keeps the factor 1. While no recall is over the least by more than the gap, all factors
    stay exactly 1. Where they are rescaled only their ratios count: factors that fell together are
    as if they had not.

    Args:
        target: What is compared with what. ``"equalized_odds"``: the cells (group and label) of
            each label. ``"equal_opportunity"``: those of the label ``favourable`` alone; the
            others are left as they are. ``"accuracy"``: groups without label, by their share of
            right predictions; the rescaling is over all of them. ``"worst_cell"``: all cells with
            each other, and no rescaling: labels do not keep their share, and steps get smaller.
        gap: Difference between recalls that is let be, in [0, 1]. No value fits every target and
            table.
        rate: Speed, per observation and unit of recall, positive.
        smoothing: Weight of the past in the recalls, in [0, 1). 0 looks at one observation only.
        floor: Least factor before rescaling, a number in [0, 1]; or ``"equal_vote"``,
            :math:`\min(1, n_\text{min} / n_k)` within the stratum: no group gets fewer votes than
            its smallest one of ``min_reference_rows``.
        max_accuracy_loss: Share of rows in [0, 1]. While the smoothed accuracy on all observed rows
            of a known group is more than this below the best it has had, every :math:`\log f_k` is
            multiplied by 1 - ``rate`` instead (0 from a rate of 1 on), so that factors rise, with
            ``gap=0`` too. It looks back on the same run, not at one without a cap: it ends a
            collapse and is no bound on what the cap costs. The accuracies count once the average
            holds half of its weight. None for no such rule.
        favourable: The label of "equal_opportunity", by its code in ``strata`` (of an encoder,
            ``strata_``); of no matter for other targets.
        min_reference_rows: Groups with fewer rows in the data are never the least, and those of a
            stratum share one "equal_vote" as if they were one group. A stratum of such groups alone
            is not capped.
        max_factor: Largest factor that rescaling may give, at least 1; the ratios within the
            stratum stay, and its share gets smaller.

    Raises:
        ValueError: If a field is outside its range, or not one of its words.
        TypeError: If a field is of another type.

    Source:
        The rule is fairclip's own. Weights that follow the groups' errors during training are also
        in FairBatch (https://arxiv.org/abs/2012.01696), which draws rows by them, and FairGrad
        (https://arxiv.org/abs/2206.10923), which weighs losses.

    Example:
        >>> import torch
        >>> cap = TargetCap("equalized_odds", gap=0.1, rate=1.0)
        >>> state = cap.init(counts=[300, 100, 250, 250], strata=[0, 0, 1, 1])
        >>> hits, rows = torch.tensor([9, 3, 5, 4]), torch.tensor([10, 5, 10, 8])
        >>> cap(hits, rows, state)  # recalls .9 and .6; .5 and .5
        tensor([0.9476, 1.1573, 1.0000, 1.0000], dtype=torch.float64)
    """

    target: str
    gap: float
    rate: float = 0.1
    smoothing: float = 0.98
    floor: str | float = "equal_vote"
    max_accuracy_loss: float | None = None
    favourable: int = 1
    min_reference_rows: int = 30
    max_factor: float = 10.0

    def __post_init__(self) -> None:
        if self.target not in _TARGETS:
            raise ValueError(f"`target` must be one of {_TARGETS}, got {self.target!r}.")
        for name in ("gap", "rate", "smoothing", "min_reference_rows", "max_factor"):
            if not isinstance(getattr(self, name), Real):
                raise TypeError(f"`{name}` must be a number, got {getattr(self, name)!r}.")
        # The ranges are written so that nan fails too.
        if not 0 <= self.gap <= 1:
            raise ValueError(f"`gap` must be in [0, 1], got {self.gap}.")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"`rate` must be positive and finite, got {self.rate}.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {self.smoothing}.")
        if isinstance(self.floor, Real):
            if not 0 <= self.floor <= 1:
                raise ValueError(f"`floor` must be in [0, 1], got {self.floor}.")
        elif self.floor != "equal_vote":
            raise ValueError(f"`floor` must be 'equal_vote' or a number, got {self.floor!r}.")
        loss = self.max_accuracy_loss
        if loss is not None and not (isinstance(loss, Real) and 0 <= loss <= 1):
            raise ValueError(f"`max_accuracy_loss` must be None or in [0, 1], got {loss!r}.")
        if not self.min_reference_rows >= 1:
            raise ValueError(
                f"`min_reference_rows` must be at least 1, got {self.min_reference_rows}."
            )
        if not self.max_factor >= 1:
            raise ValueError(f"`max_factor` must be at least 1, got {self.max_factor}.")
        if not isinstance(self.favourable, Integral):
            raise TypeError(f"`favourable` must be a label's code, got {self.favourable!r}.")

    def init(
        self,
        counts: Tensor | np.ndarray | Sequence[int],
        strata: Tensor | np.ndarray | Sequence[int] | None = None,
    ) -> TargetState:
        """Return the state before the first observation.

        Args:
            counts: (K,) rows of each group in the data set.
            strata: (K,) label code of each group; needed for "equalized_odds" and
                "equal_opportunity", None for "accuracy", of no matter for "worst_cell".

        Raises:
            ValueError: If the arguments do not fit each other or the target.

        Warns:
            FairclipWarning: If groups are pooled, or a stratum has none that is large enough.
        """
        rows = to_host(counts)
        if rows.ndim != 1 or len(rows) == 0 or rows.dtype.kind not in "iu" or rows.min() < 0:
            raise ValueError(f"`counts` must be (K,) whole numbers of rows, got {rows.tolist()}.")
        by_label = self.target in ("equalized_odds", "equal_opportunity")
        if by_label and strata is None:
            raise ValueError(
                f"`target` is {self.target!r}, so `strata` must be given: fit the encoder as "
                "`GroupEncoder(with_label=True)`."
            )
        if self.target == "accuracy" and strata is not None:
            raise ValueError(
                "`target` is 'accuracy', which compares groups without label: fit the encoder as "
                "`GroupEncoder(with_label=False)`."
            )
        n_groups = len(rows)
        rows = rows.astype(np.int64)  # a copy
        compared = make_strata(n_groups, strata if by_label else None, ())
        plan = make_plan(rows, compared, self.min_reference_rows, np.float64)
        floors = plan.floor if isinstance(self.floor, str) else np.full(n_groups, self.floor)
        if self.target == "equal_opportunity":
            is_favourable = to_host([] if strata is None else strata) == self.favourable
            if not is_favourable.any():
                raise ValueError(
                    f"`favourable` must be a label in `strata`, got {self.favourable}."
                )
            floors = np.where(is_favourable, floors, 1.0)
        warn_of_small_groups(rows, compared, self.min_reference_rows)
        return TargetState(
            target=self.target,
            favourable=self.favourable if self.target == "equal_opportunity" else None,
            factors=np.ones(n_groups),
            reference=np.arange(n_groups),
            log_factors=np.zeros(n_groups),
            hits=np.zeros(n_groups + 1),
            rows=np.zeros(n_groups + 1),
            n_observations=np.zeros(1),
            best=np.full(1, -np.inf),
            counts=rows,
            member=compared.member,
            comparable=plan.eligible,
            log_floor=np.log(floors, where=floors > 0, out=np.full(n_groups, -np.inf)),
        )

    def __call__(self, hits: _Given, rows: _Given, state: TargetState, /) -> _Given:
        """Take in one observation, update ``state`` in place and return a copy of the factors.

        Without any rows it changes nothing. No host synchronisation.

        Args:
            hits: Rows of each group that were predicted right, or the probabilities of their true
                classes, added up.
            rows: Rows of each group that were observed.
            state: Of `init`.

        Shape:
            - ``hits``, ``rows``: ``(K,)`` numbers, both tensors on one device or both numpy arrays.
              Output: ``(K,)`` float64, likewise.

        Raises:
            ValueError: If shapes do not fit; of what is in the host's memory also if ``hits`` are
                not in 0 to ``rows``.
        """
        if hits.shape != rows.shape or hits.shape != state.counts.shape:
            raise ValueError(
                f"`hits` and `rows` must be ({len(state.counts)},), got {tuple(hits.shape)} and "
                f"{tuple(rows.shape)}."
            )
        of_hits, of_rows = (_as_float64(host_view(array)) for array in (hits, rows))
        if isinstance(of_rows, np.ndarray):  # on a device it would have to be waited for
            _check_host(of_hits, of_rows)
        state.update_(of_hits, of_rows, self.smoothing)
        log_factors, state.reference = self._move(state)
        xp = namespace(of_rows)
        state.log_factors = xp.where(of_rows.sum() > 0, log_factors, state.log_factors)
        state.factors = self._rescale(state)
        factors: _Given = given_as(hits, state.factors * 1.0)  # a copy
        return factors

    def _move(self, state: TargetState) -> tuple[Array, Array]:
        """Return the new logarithms, and the code that each group was compared with, (K,)."""
        xp, recalls, log_factors = namespace(state.rows), state.recalls, state.log_factors
        seen = state.rows[:-1] > 0  # (K,)
        compared_with = xp.where(state.comparable & seen, recalls, xp.inf)  # (K, K)
        least = xp.amin(compared_with, -1)  # inf where there is none, which moves nothing down
        moved = log_factors - self.rate * (recalls - least - self.gap)
        if self.max_accuracy_loss is not None:
            is_lost = state.accuracy < state.best - self.max_accuracy_loss
            moved = xp.where(is_lost, log_factors * max(1 - self.rate, 0.0), moved)
        moved = xp.maximum(moved, state.log_floor).clip(max=0.0)
        is_compared = seen & (least < xp.inf)
        reference = xp.where(is_compared, compared_with.argmin(-1), state.reference)
        return xp.where(seen, moved, log_factors), reference

    def _rescale(self, state: TargetState) -> Array:
        """Return the factors (K,) as they are applied."""
        xp = namespace(state.rows)
        if self.target == "worst_cell":
            return xp.exp(state.log_factors)
        # The largest of a stratum is taken out: it cancels, and nothing underflows together.
        largest = xp.amax(xp.where(state.member, state.log_factors, -xp.inf), -1)
        factors = xp.exp(state.log_factors - largest)
        rows = state.counts * state.member  # (K, K)
        n_rows, n_votes = rows.sum(-1), (rows * factors).sum(-1)
        scale = xp.where(n_rows > 0, n_rows / xp.where(n_rows > 0, n_votes, 1.0), 1.0)
        return factors * scale.clip(max=self.max_factor)


def _check_host(hits: Array, rows: Array) -> None:
    wrong = np.flatnonzero(~((hits >= 0) & (hits <= rows)))  # NaN too
    if wrong.size:
        k = wrong[0]
        raise ValueError(
            f"`hits` must be in 0 to `rows`, got {hits[k]:g} of {rows[k]:g} rows of group {k}."
        )


def _as_float64(array: Array) -> Array:
    xp = namespace(array)
    return xp.asarray(array, dtype=xp.float64)
