"""What fairclip's estimators share: their parameters and how they train."""

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from torch import Tensor, nn
from tqdm import tqdm

from fairclip.capping import NormCap
from fairclip.clipper import FairClipper
from fairclip.clipping import Mode
from fairclip.groups import GroupBatchSampler, GroupEncoder
from fairclip.training._device import find_device, seeded
from fairclip.training._early_stopping import EarlyStopping
from fairclip.training._loop import train
from fairclip.training._mlp import make_mlp
from fairclip.training._module import copy_module
from fairclip.training._steps import FairStep, RowLosses


class FairClipEstimator(BaseEstimator):  # type: ignore[misc]
    """A module that `FairStep` trains; a subclass prepares the targets and reads the outputs.

    The parameters are documented where users meet them, in the subclasses.
    """

    def __init__(
        self,
        *,
        max_ratio: float = 2.0,
        reference: str | int = "minority",
        within: Literal["all", "label"] = "all",
        smoothing: float = 0.95,
        floor: float | Literal["equal_vote"] = "equal_vote",
        preserve_norm: bool = False,
        scope: Literal["global", "layer"] = "global",
        min_reference_rows: int = 30,
        max_factor: float = 10.0,
        clip: Mode | None = None,
        hidden: Sequence[int] = (64, 64),
        module: nn.Module | None = None,
        epochs: int = 50,
        batch_size: int = 128,
        lr: float = 1e-3,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        verbose: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.max_ratio = max_ratio
        self.reference = reference
        self.within = within
        self.smoothing = smoothing
        self.floor = floor
        self.preserve_norm = preserve_norm
        self.scope = scope
        self.min_reference_rows = min_reference_rows
        self.max_factor = max_factor
        self.clip = clip
        self.hidden = hidden
        self.module = module
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.verbose = verbose
        self.device = device
        self.random_state = random_state

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

    def _train(
        self,
        inputs: Tensor,
        targets: Tensor,
        groups: NDArray[np.int64],
        encoder: GroupEncoder | None,
        held_back: tuple[Tensor, Tensor] | None,
        *,
        loss_fn: RowLosses,
        n_outputs: int,
        seed: int,
    ) -> None:
        """Train and set the fitted attributes; without an ``encoder``, without a cap.

        Shape:
            - ``inputs``: ``(N, d)``. ``targets``: ``(N,)``. ``groups``: ``(N,)``. ``held_back``:
              inputs ``(V, d)`` and targets ``(V,)`` for early stopping.
        """
        cap = NormCap(**{field.name: getattr(self, field.name) for field in fields(NormCap)})
        n_groups = None
        if encoder is None:
            cap, n_groups = NormCap(max_ratio=math.inf), 1
        stopping = None
        if held_back is not None:
            stopping = EarlyStopping(*held_back, loss_fn, self.n_iter_no_change)
        device = find_device(self.device)
        with seeded(seed, device):
            module = self._new_module(inputs, n_outputs, seed).to(device)
            with (
                FairClipper(
                    module, cap=cap, clip=self.clip, encoder=encoder, n_groups=n_groups
                ) as clipper,
                tqdm(total=self.epochs, unit="epoch", disable=not self.verbose) as progress,
            ):

                def on_epoch(epoch: int, model: nn.Module) -> bool:
                    progress.update()
                    return stopping is not None and stopping(epoch, model)

                curve = train(
                    module,
                    inputs,
                    targets,
                    torch.from_numpy(groups),
                    step=FairStep(clipper),
                    loss_fn=loss_fn,
                    optimizer=torch.optim.Adam(module.parameters(), lr=self.lr),
                    batches=GroupBatchSampler(groups, self.batch_size, seed=seed),
                    epochs=self.epochs,
                    on_epoch=on_epoch,
                )
        if not math.isfinite(curve[-1]):
            raise ValueError(
                f"Training diverged: the loss was {curve[-1]} in epoch {len(curve)}. "
                "Scale X or lower `lr`."
            )
        if stopping is not None:
            stopping.restore(module)
        self.module_ = module.cpu().eval()
        self.encoder_ = encoder
        self.trace_ = clipper.trace
        self.n_iter_ = len(curve)
        self.loss_curve_ = curve
        self.validation_curve_ = None if stopping is None else stopping.curve

    def _new_module(self, inputs: Tensor, n_outputs: int, seed: int) -> nn.Module:
        if self.module is None:
            return make_mlp(inputs.shape[1], n_outputs, self.hidden, seed=seed)
        return copy_module(self.module, inputs, n_outputs)
