"""Cap the last layer alone; the layers that all groups share are left as they are."""

import torch
from torch import Tensor, nn

from fairclip import GroupEncoder, NormCap
from tests.benchmarks._idea_steps import Contributions, Factors


def in_head(model: nn.Module) -> Tensor:
    """Return which of the parameters are of the layer that comes last, (P,) bool."""
    names = [name for name, _ in model.named_parameters()]
    head = names[-1].rpartition(".")[0]
    return torch.cat(
        [
            torch.full((p.numel(),), name.rpartition(".")[0] == head)
            for name, p in model.named_parameters()
        ]
    )


def of_head(cap: NormCap, encoder: GroupEncoder, model: nn.Module) -> Factors:
    """Return the factors of ``cap`` on the norms in the head, 1 elsewhere."""
    state, mask = cap.init(encoder.counts_, encoder.strata_), in_head(model)

    def factors(batch: Contributions) -> Tensor:
        capped = batch.cap(cap, batch.gradients[:, mask].norm(dim=1), state)
        return torch.where(mask, capped[:, None], 1.0)  # (K, P)

    return factors
