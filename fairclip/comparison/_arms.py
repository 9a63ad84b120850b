"""What is compared: each arm is a name and a way to build its training step."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
import torch

from fairclip.capping import NormCap
from fairclip.clipper import FairClipper
from fairclip.clipping import Norm
from fairclip.comparison._rivals import Rival, TorchJDArm, make_rivals
from fairclip.comparison._settings import Settings
from fairclip.comparison._start import Codes, Start
from fairclip.training import FairStep, GroupDROStep, WeightedStep

BASELINE = "unclipped"


@dataclass(frozen=True)
class FairArm:
    """Cap the groups' contributions, then perhaps clip at the unclipped run's median norm.

    With ``max_ratio=inf`` nothing is capped, and the norms of the groups are on record.
    """

    name: str
    cap: NormCap
    clip: bool = False
    codes: ClassVar[Codes] = "groups"

    @property
    def group_blind(self) -> bool:
        """Whether no group code has a part in training."""
        return math.isinf(self.cap.max_ratio)

    def step(self, start: Start) -> FairStep:
        """Return the step for one run."""
        clip = Norm(start.median_norm) if self.clip else None
        return FairStep(FairClipper(start.model, cap=self.cap, clip=clip, encoder=start.encoder))


@dataclass(frozen=True)
class WeightedArm:
    r"""Weight rows by the size of their cell, or of their label.

    .. math:: w_k \propto n_k^{-p}

    with :math:`n_k` the training rows of cell (label) k, scaled to mean 1 over the training rows.
    With p = 1 the cells have equal weight in all, with p = 1/2 it grows with the root of their
    rows.

    Source:
        p = 1 is ``class_weight="balanced"`` of scikit-learn; by cell it is the RWG and by label
        the RWY of Idrissi, Arjovsky, Pezeshki, Lopez-Paz: Simple data balancing achieves
        competitive worst-group-accuracy (CLeaR 2022, https://arxiv.org/abs/2110.14503). Departure:
        they draw rows with these weights, here the losses have them. p = 1/2 is the smoothed form
        that Cui, Jia, Lin, Song, Belongie (CVPR 2019, https://arxiv.org/abs/1901.05555) name.
        The reweighing of Kamiran and Calders (2012), which makes group and label independent, is
        another rule.
    """

    name: str
    codes: Codes
    power: float

    @property
    def group_blind(self) -> bool:
        """Whether no group code has a part in training."""
        return self.codes == "labels"

    def step(self, start: Start) -> WeightedStep:
        """Return the step for one run."""
        codes = start.codes[self.codes]
        counts = np.bincount(codes[codes >= 0])  # (K,)
        weights = counts**-self.power
        weights *= counts.sum() / (weights @ counts)
        return WeightedStep(torch.from_numpy(weights))


@dataclass(frozen=True)
class GroupDROArm:
    """Group DRO over the cells, with the step size of its authors' code.

    Source:
        Sagawa, Koh, Hashimoto, Liang (ICLR 2020, https://arxiv.org/abs/1911.08731); departures are
        named by :class:`fairclip.training.GroupDROStep`.
    """

    name: str = "group_dro"
    codes: ClassVar[Codes] = "cells"
    group_blind: ClassVar[bool] = False

    def step(self, start: Start) -> GroupDROStep:
        """Return the step for one run."""
        return GroupDROStep(int(start.codes["cells"].max()) + 1)


@dataclass(frozen=True)
class ThresholdArm:
    """The unclipped model with another cut for everyone, chosen on the validation part."""

    name: str = "threshold"
    group_blind: ClassVar[bool] = True


TrainedArm: TypeAlias = FairArm | WeightedArm | GroupDROArm | TorchJDArm
Arm: TypeAlias = TrainedArm | ThresholdArm | Rival


def make_arms(settings: Settings) -> tuple[Arm, ...]:
    """Return the arms in the order of the report; the first is the baseline.

    Raises:
        ModuleNotFoundError: If a rival needs an extra.
        ValueError: If a field of the cap is out of range, or a rival is unknown.
    """
    # Nothing is compared with a reference there, so that any will do.
    free = replace(settings.cap(math.inf), reference="minority")
    arms: list[Arm] = [FairArm(BASELINE, free), FairArm("clip_norm", free, clip=True)]
    if settings.within in {"all", "both"}:
        arms += [FairArm(f"fair_cap@{r:g}", settings.cap(r)) for r in settings.max_ratio]
    if settings.within in {"label", "both"} and settings.groups == "cells":
        arms += [
            FairArm(f"fair_cap_label@{r:g}", settings.cap(r, "label")) for r in settings.max_ratio
        ]
    if not settings.quick:
        arms += [
            FairArm("fair_cap_step@2", NormCap.per_step(2.0)),
            FairArm("fair_cap_label@2+clip", settings.cap(2.0, "label"), clip=True)
            if settings.within == "label"
            else FairArm("fair_cap@2+clip", settings.cap(2.0), clip=True),
        ]
    powers = (0.5,) if settings.quick else (0.5, 1.0)
    arms += [WeightedArm(f"reweight@{p:g}", "cells", p) for p in powers]
    arms += [] if settings.quick else [GroupDROArm()]
    arms += [WeightedArm(f"label_reweight@{p:g}", "labels", p) for p in powers]
    return (*arms, ThresholdArm(), *make_rivals(settings.rivals))
