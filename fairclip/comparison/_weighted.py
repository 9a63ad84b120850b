"""Arms that weight rows or losses by group."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from fairclip.comparison._start import Codes, Start, check_power
from fairclip.training import GroupDROStep, WeightedStep


@dataclass(frozen=True)
class WeightedArm:
    r"""Weight rows by the size of their cell, or of their label.

    .. math:: w_k \propto n_k^{-p}

    with :math:`n_k` the training rows of cell (label) k, scaled to mean 1 over the training rows,
    or over those of each label with ``within="label"``, so that every label keeps its share. With
    p = 1 the cells have equal weight in all, with p = 1/2 it grows with the root of their rows.

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
    power: float
    codes: Codes = "cells"
    within: Literal["all", "label"] = "all"

    def __post_init__(self) -> None:
        check_power(self.power)

    @property
    def group_blind(self) -> bool:
        """Whether no group code has a part in training."""
        return self.codes == "labels"

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        whose = "label" if self.group_blind else "(group, label) cell"
        share = "; each label keeps its share" if self.within == "label" else ""
        return f"rows weigh n^-{self.power:g}, n the rows of their {whose}{share}."

    def step(self, start: Start) -> WeightedStep:
        """Return the step for one run."""
        codes, labels = start.codes[self.codes], start.codes["labels"]
        known = codes >= 0
        counts = np.bincount(codes[known])  # (K,)
        label_of = np.zeros(len(counts), dtype=np.int64)  # (K,)
        if self.within == "label":
            label_of[codes[known]] = labels[known]
        weights = counts**-self.power
        for label in np.unique(label_of):
            member = label_of == label
            weights[member] *= counts[member].sum() / (weights[member] @ counts[member])
        return WeightedStep(torch.from_numpy(weights))


@dataclass(frozen=True)
class GroupDROArm:
    """Group DRO over the cells; without a value with the step size of its authors' code, 0.01.

    Source:
        Sagawa, Koh, Hashimoto, Liang (ICLR 2020, https://arxiv.org/abs/1911.08731); departures are
        named by :class:`fairclip.training.GroupDROStep`.
    """

    name: str
    step_size: float
    codes: ClassVar[Codes] = "cells"
    group_blind: ClassVar[bool] = False

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        return (
            "group DRO: (group, label) cells weigh more the higher their loss is; step size "
            f"{self.step_size:g}."
        )

    def step(self, start: Start) -> GroupDROStep:
        """Return the step for one run."""
        return GroupDROStep(int(start.codes["cells"].max()) + 1, self.step_size)
