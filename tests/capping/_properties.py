"""What must hold for the factors of every cap."""

import torch
from torch import Tensor

from fairclip.capping import CapState, NormCap
from tests.capping._inputs import Batch


def apply(cap: NormCap, batch: Batch, state: CapState) -> Tensor:
    return cap(batch.norms, batch.counts, batch.present, state)


def apply_as_on_a_device(
    cap: NormCap, batch: Batch, state: CapState
) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors, references and averages by torch, which the public call uses elsewhere."""
    factors, reference, averages = cap._compare(state, batch.norms, batch.counts, batch.present)
    return factors, reference, averages


def assert_like_norms(factors: Tensor, batch: Batch) -> None:
    assert factors.shape == batch.norms.shape
    assert factors.dtype == batch.norms.dtype


def assert_within_bounds(factors: Tensor, cap: NormCap) -> None:
    """Finite, never negative, and above 1 only to keep a label's share."""
    assert factors.isfinite().all()
    assert (factors >= 0).all()
    assert (factors <= (1.0 if cap.within == "all" else cap.max_factor)).all()


def assert_literal_rule(factors: Tensor, batch: Batch, max_ratio: float, reference: int) -> None:
    """No present group is above max_ratio times the reference, which is left as it is."""
    norms = batch.norms.double()
    capped = torch.where(batch.present, factors * norms, 0.0)
    bound = max_ratio * norms[..., reference]
    others = torch.arange(len(batch.counts)) != reference
    assert (capped <= bound.unsqueeze(-1) * (1 + 1e-6))[..., others].all()
    assert (factors[..., reference] == 1).all()


def assert_label_shares_kept(factors: Tensor, counts: Tensor, strata: Tensor) -> None:
    for label in torch.unique(strata):
        rows = counts[strata == label].to(factors.dtype)
        torch.testing.assert_close((factors[strata == label] * rows).sum(), rows.sum())
