"""What fairclip's estimators are told: the parameters of both, and their ranges."""

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from torch import nn

from fairclip.capping import NormCap
from fairclip.clipping import Mode


class Parameters(BaseEstimator):  # type: ignore[misc]
    """The parameters that the estimators share; they are documented where users meet them."""

    def __init__(
        self,
        *,
        max_ratio: float = 2.0,
        reference: str | int = "minority",
        smoothing: float = 0.95,
        floor: float | Literal["equal_vote"] = "equal_vote",
        preserve_norm: bool = False,
        scope: Literal["global", "layer"] = "global",
        min_reference_rows: int = 30,
        clip: Mode | None = None,
        hidden: Sequence[int] = (64, 64),
        module: nn.Module | None = None,
        epochs: int = 50,
        batch_size: int = 128,
        lr: float = 1e-3,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        verbose: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.max_ratio = max_ratio
        self.reference = reference
        self.smoothing = smoothing
        self.floor = floor
        self.preserve_norm = preserve_norm
        self.scope = scope
        self.min_reference_rows = min_reference_rows
        self.clip = clip
        self.hidden = hidden
        self.module = module
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device
        self.random_state = random_state

    def _cap(self) -> NormCap:
        names = self.get_params(deep=False)
        return NormCap(**{f.name: names[f.name] for f in fields(NormCap) if f.name in names})

    def _check_parameters(self) -> None:
        for name in ("epochs", "batch_size", "n_iter_no_change"):
            check_scalar(getattr(self, name), name, Integral, min_val=1)
        check_scalar(self.lr, "lr", Real)
        if not 0 < self.lr < math.inf:
            raise ValueError(f"`lr` must be positive and finite, got {self.lr}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"`validation_fraction` must be in (0, 1), got {self.validation_fraction}."
            )
        if not (self.clip is None or isinstance(self.clip, Mode)):
            raise TypeError(f"`clip` must be a mode of fairclip.clipping, got {self.clip!r}.")
        if not (self.module is None or isinstance(self.module, nn.Module)):
            raise TypeError(f"`module` must be a torch.nn.Module or None, got {self.module!r}.")

    def _check_takes_parts(self) -> None:
        """Raise where `partial_fit` cannot do what is asked."""
        if self.early_stopping:
            raise ValueError("`partial_fit` stops when its caller does: use early_stopping=False.")
