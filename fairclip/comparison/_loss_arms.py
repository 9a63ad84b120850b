"""Rivals that change the loss for equalized odds, each with its one dial in the name."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairclip.comparison._start import Codes, Start
from fairclip.training import FairBatchStep, FairGradStep, FairretStep


@dataclass(frozen=True)
class FairBatchArm:
    """Move weight within a label to the group with the higher loss, once an epoch.

    Source:
        Roh, Lee, Whang, Suh (ICLR 2021, https://arxiv.org/abs/2012.01696); departures are named by
        :class:`fairclip.training.FairBatchStep`.
    """

    name: str
    step_size: float
    codes: ClassVar[Codes] = "cells"
    group_blind: ClassVar[bool] = False
    note: ClassVar[str] = (
        "FairBatch for equalized odds; its shares weight the losses, as all arms have the same "
        "batches."
    )

    def step(self, start: Start) -> FairBatchStep:
        """Return the step for one run."""
        return FairBatchStep(*_rows(start), self.step_size)


@dataclass(frozen=True)
class FairGradArm:
    """Weight cells by how far their accuracy is from that of their label.

    Source:
        Maheshwari, Perrot (TMLR 2023, https://arxiv.org/abs/2206.10923), without slack; departures
        are named by :class:`fairclip.training.FairGradStep`.
    """

    name: str
    step_size: float
    codes: ClassVar[Codes] = "cells"
    group_blind: ClassVar[bool] = False
    note: ClassVar[str] = "FairGrad for equalized odds, without slack; weights can be negative."

    def step(self, start: Start) -> FairGradStep:
        """Return the step for one run."""
        return FairGradStep(*_rows(start), self.step_size)


@dataclass(frozen=True)
class FairretArm:
    """Add fairret's penalty for unequal true and false positive rates to the loss.

    Source:
        Buyl, Defrance, De Bie (ICLR 2024, https://arxiv.org/abs/2310.17256); departures are named
        by :class:`fairclip.training.FairretStep`.
    """

    name: str
    strength: float
    codes: ClassVar[Codes] = "cells"
    group_blind: ClassVar[bool] = False
    note: ClassVar[str] = (
        "the loss plus fairret's NormLoss of true and of false positive rates, in each batch over "
        "the cells it has."
    )

    def step(self, start: Start) -> FairretStep:
        """Return the step for one run."""
        return FairretStep(*_rows(start), self.strength)


def _rows(start: Start) -> tuple[Tensor, Tensor]:
    """Return cell and label of each training row, ``(N,)`` each."""
    return torch.from_numpy(start.codes["cells"]), torch.from_numpy(start.codes["labels"])
