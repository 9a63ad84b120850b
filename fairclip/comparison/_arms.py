"""What is compared: each arm is a name and a way to build its training step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fairclip.capping import NormCap
from fairclip.clipper import FairClipper
from fairclip.clipping import Norm
from fairclip.comparison._settings import Settings
from fairclip.comparison._table import Table, encode
from fairclip.groups import GroupEncoder
from fairclip.training import FairStep, GroupDROStep, WeightedStep

Codes: TypeAlias = Literal["groups", "cells", "labels"]

BASELINE = "unclipped"


@dataclass(frozen=True)
class Start:
    """What a step is built from: a fresh model and the training part.

    Attributes:
        model: With its initial weights.
        encoder: Fitted on the groups that the cap bounds.
        codes: For each kind of group the codes of the rows, ``(N,)``.
        median_norm: Of the unclipped run's gradients; NaN in that run itself.
    """

    model: nn.Module
    encoder: GroupEncoder
    codes: Mapping[Codes, NDArray[np.int64]]
    median_norm: float

    @classmethod
    def of(
        cls,
        model: nn.Module,
        table: Table,
        train: NDArray[np.int64],
        settings: Settings,
        median_norm: float,
    ) -> Self:
        """Return the start for the training rows ``train`` of ``table``."""
        sensitive, y = table.sensitive.iloc[train], table.y[train]
        encoder = GroupEncoder(with_label=settings.groups == "cells").fit(sensitive, y)
        groups = encode(encoder, sensitive, y)
        codes: dict[Codes, NDArray[np.int64]] = {
            "groups": groups,
            "cells": table.cells[train],
            "labels": y,
        }
        return cls(model, encoder, codes, median_norm)


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
    """Weight rows by the size of their cell, or of their label, to the power ``-power``."""

    name: str
    codes: Codes
    power: float

    @property
    def group_blind(self) -> bool:
        """Whether no group code has a part in training."""
        return self.codes == "labels"

    def step(self, start: Start) -> WeightedStep:
        """Return the step for one run; the weights have mean 1 over the training rows."""
        codes = start.codes[self.codes]
        counts = np.bincount(codes[codes >= 0])  # (K,)
        weights = counts**-self.power
        weights *= counts.sum() / (weights @ counts)
        return WeightedStep(torch.from_numpy(weights))


@dataclass(frozen=True)
class GroupDROArm:
    """Group DRO over the cells."""

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


TrainedArm: TypeAlias = FairArm | WeightedArm | GroupDROArm
Arm: TypeAlias = TrainedArm | ThresholdArm


def make_arms(settings: Settings) -> tuple[Arm, ...]:
    """Return the arms in the order of the report; the first is the baseline.

    Raises:
        ValueError: If a field of the cap is out of range.
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
    return (*arms, ThresholdArm())
