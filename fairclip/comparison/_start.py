"""What the training step of an arm is built from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fairclip.comparison._settings import Settings
from fairclip.comparison._table import Table, encode
from fairclip.groups import GroupEncoder

Codes: TypeAlias = Literal["groups", "cells", "labels"]


@dataclass(frozen=True)
class Start:
    """What a step is built from: a fresh model and the training part.

    Attributes:
        model: With its initial weights.
        encoder: Fitted on the groups that the cap bounds.
        codes: For each kind of group the codes of the rows, ``(N,)``.
        median_norm: Of the unclipped run's gradients; NaN in that run itself.
        seed: Of the run.
    """

    model: nn.Module
    encoder: GroupEncoder
    codes: Mapping[Codes, NDArray[np.int64]]
    median_norm: float
    seed: int

    @classmethod
    def of(
        cls,
        model: nn.Module,
        table: Table,
        train: NDArray[np.int64],
        settings: Settings,
        median_norm: float,
        seed: int,
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
        return cls(model, encoder, codes, median_norm, seed)


def check_power(power: float) -> None:
    """Raise unless rows may be weighted by their number to this power, or its inverse."""
    if not 0 <= power <= 10:
        raise ValueError(f"the power must be in [0, 10], got {power:g}.")
