"""One ratio between the groups of a label, another between the labels. K groups, Y labels."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fairclip import GroupEncoder, NormCap
from tests.benchmarks._idea_steps import Contributions, Factors


def two_knobs(within: NormCap, between: NormCap, encoder: GroupEncoder) -> Factors:
    """Return the factors within labels times those of the labels' whole contributions."""
    labels = torch.as_tensor(encoder.strata_)  # (K,)
    n_labels = int(labels.max()) + 1
    of_label = (labels == torch.arange(n_labels)[:, None]).float()  # (Y, K)
    state = within.init(encoder.counts_, encoder.strata_)
    counts = np.bincount(encoder.strata_, encoder.counts_).astype(np.int64)
    label_state = between.init(counts)

    def factors(batch: Contributions) -> Tensor:
        labelled = replace(
            batch,
            gradients=of_label @ batch.gradients,
            counts=(of_label @ batch.counts.float()).long(),
        )
        inside = batch.cap(within, batch.gradients.norm(dim=1), state)
        outside = labelled.cap(between, labelled.gradients.norm(dim=1), label_state)
        return inside * outside[labels]

    return factors
