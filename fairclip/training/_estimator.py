"""What fairclip's estimators share: how they train. Shapes: N rows, d features."""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn
from tqdm import tqdm

from fairclip.capping import NormCap
from fairclip.clipper import FairClipper
from fairclip.exceptions import FairclipWarning
from fairclip.groups import GroupBatchSampler, GroupEncoder
from fairclip.training._device import find_device, seeded
from fairclip.training._early_stopping import EarlyStopping
from fairclip.training._loop import infer, train
from fairclip.training._losses import weighted
from fairclip.training._mlp import make_mlp
from fairclip.training._module import copy_module
from fairclip.training._parameters import Parameters
from fairclip.training._position import Position
from fairclip.training._rows import Inputs, Rows, as_inputs
from fairclip.training._saving import load_estimator, save_estimator
from fairclip.training._steps import FairStep


class FairClipEstimator(Parameters, ABC):
    """A module that `FairStep` trains; a subclass knows the targets and reads the outputs."""

    _FORMAT: ClassVar[str]  # of its files

    @staticmethod
    @abstractmethod
    def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one loss per row."""

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """What the module returns for each row."""

    @property
    @abstractmethod
    def _makes_cells(self) -> bool:
        """Whether the groups are cells."""

    @abstractmethod
    def _target_to_json(self) -> dict[str, Any]:
        """Return what is learnt about the target, for `save`."""

    @abstractmethod
    def _target_from_json(self, settings: Mapping[str, Any]) -> None:
        """Undo `_target_to_json`."""

    @abstractmethod
    def _targets(self, y: NDArray[Any]) -> Tensor:
        """Return what the loss compares the outputs with, ``(N,)``."""

    def _rows(self, X: Any, y: Any, sensitive_features: Any, sample_weight: Any) -> Rows:
        rows = Rows(X, y, sensitive_features)
        if sample_weight is None:
            return rows
        return rows.times(_check_sample_weight(sample_weight, X, dtype=np.float64))

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave the estimator as it was where what is inside fails."""
        before = {**vars(self)}
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _fit(self, rows: Rows, *, epochs: int, goes_on: bool) -> Self:
        """Train on these rows, from the start or from where the call before ended."""
        self._check_parameters()
        position: Position | None = getattr(self, "_position", None) if goes_on else None
        seed = self._new_seed() if position is None else position.seed
        stopping = None
        if self.early_stopping:
            rows, held_back = rows.split(
                self.validation_fraction, seed, with_labels=is_classifier(self)
            )
            stopping = self._stopping(held_back)
        if position is None:
            position = Position(seed, self._new_encoder(rows), self._structure)
        position.check(self._structure)
        groups = self._codes(rows, position.encoder)
        if not goes_on:
            self.n_iter_ = 0
            self.loss_curve_: list[float] = []
            self.validation_curve_: list[float] | None = None
        self._train(rows, groups, stopping, position, epochs=epochs, goes_on=goes_on)
        return self

    @property
    def _structure(self) -> dict[str, Any]:
        """What may not change while training goes on."""
        module = None if self.module is None else type(self.module).__qualname__
        return {"hidden": tuple(self.hidden), "module": module, "groups": self._makes_cells}

    def _new_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _stopping(self, held_back: Rows) -> EarlyStopping:
        loss_fn = weighted(self._losses, held_back.scaled_weights())
        inputs, targets = as_inputs(held_back.X), self._targets(held_back.y)
        return EarlyStopping(inputs, targets, loss_fn, self.n_iter_no_change)

    def _new_encoder(self, rows: Rows) -> GroupEncoder | None:
        if rows.sensitive_features is None:
            return None
        encoder = GroupEncoder(with_label=self._makes_cells)
        return encoder.fit(rows.sensitive_features, rows.y)

    def _codes(self, rows: Rows, encoder: GroupEncoder | None) -> NDArray[np.int64]:
        if rows.sensitive_features is None:
            warnings.warn(
                "No `sensitive_features`: training without a cap. Pass them to `fit`.",
                FairclipWarning,
                stacklevel=4,
            )
            return np.full(len(rows.y), 0 if encoder is None else -1)
        if encoder is None:
            raise ValueError(
                "The first call had no `sensitive_features`, so there are no groups to go on with."
            )
        return encoder.transform(rows.sensitive_features, rows.y)

    def _train(
        self,
        rows: Rows,
        groups: NDArray[np.int64],
        stopping: EarlyStopping | None,
        position: Position,
        *,
        epochs: int,
        goes_on: bool,
    ) -> None:
        """Train and set the fitted attributes; without an encoder, without a cap."""
        cap, n_groups = self._cap(), None
        if position.encoder is None:
            cap, n_groups = NormCap(max_ratio=math.inf), 1
        batches = GroupBatchSampler(groups, self.batch_size, seed=position.seed)
        batches.load_state_dict({**batches.state_dict(), "epoch": self.n_iter_})
        inputs, device = as_inputs(rows.X), find_device(self.device)
        with seeded(position.seed + self.n_iter_, device):
            module = self._module(inputs, position.seed, goes_on=goes_on).to(device)
            optimizer = torch.optim.Adam(module.parameters(), lr=self.lr)
            with (
                FairClipper(
                    module, cap=cap, clip=self.clip, encoder=position.encoder, n_groups=n_groups
                ) as clipper,
                tqdm(total=epochs, unit="epoch", disable=not self.verbose) as progress,
            ):
                position.restore(optimizer, clipper)

                def on_epoch(epoch: int, model: nn.Module, loss: float) -> bool:
                    progress.set_postfix(loss=f"{loss:.4g}", refresh=False)
                    progress.update()
                    return stopping is not None and stopping(epoch, model)

                losses = train(
                    module,
                    inputs,
                    self._targets(rows.y),
                    torch.from_numpy(groups),
                    weights=rows.scaled_weights(),
                    step=FairStep(clipper),
                    loss_fn=self._losses,
                    optimizer=optimizer,
                    batches=batches,
                    epochs=epochs,
                    on_epoch=on_epoch,
                )
        if stopping is not None:
            stopping.restore(module)
        # Losses are measured before a step: of the last one they know nothing.
        if not bool(infer(module, inputs[: self.batch_size]).isfinite().all()):
            raise ValueError(
                f"Training diverged: the loss was {losses[-1]} in epoch {len(losses)}, and outputs "
                "are not finite. Scale X or lower `lr`."
            )
        if stopping is not None:
            self.validation_curve_ = [*(self.validation_curve_ or []), *stopping.curve]
        self.module_ = module.cpu().eval()
        self.encoder_ = position.encoder
        self.trace_ = clipper.trace
        self.n_iter_ += len(losses)
        self.loss_curve_ = [*self.loss_curve_, *losses]
        self._position = position.after(optimizer, clipper)

    def _module(self, inputs: Inputs, seed: int, *, goes_on: bool) -> nn.Module:
        if goes_on:
            return copy.deepcopy(self.module_)
        if self.module is None:
            return make_mlp(inputs.shape[1], self._n_outputs, self.hidden, seed=seed)
        return copy_module(self.module, inputs, self._n_outputs)

    def _outputs(self, X: Any) -> Tensor:
        """Return what the module makes of rows that are not checked yet, ``(N, C)``."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float32, reset=False)
        return infer(self.module_, as_inputs(X))

    def save(self, path: str | PathLike[str]) -> None:
        """Write what prediction needs into the folder ``path``: see `load`.

        A saved model that is already there is replaced; the folder appears at once or not at all.
        ``trace_`` and ``encoder_`` are not saved, nor what the optimizer and the cap remember:
        after `load`, training goes on from the weights alone.

        Raises:
            ValueError: If ``path`` is something else than a saved model, a parameter has no JSON
                form, or ``hidden`` or ``module`` is no longer what the model was fitted with.
        """
        check_is_fitted(self)
        save_estimator(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], *, module: nn.Module | None = None) -> Self:
        """Read a folder that `save` wrote: weights as safetensors, the rest as JSON, no pickle.

        Args:
            path: The folder.
            module: A module of the kind the model was trained with, if that was not the default
                one. It is copied, and its weights are replaced.

        Raises:
            ValueError: If ``path`` is not a saved model of this kind, or is damaged, or ``module``
                does not fit it.
        """
        loaded: Self = load_estimator(cls, path, module)
        return loaded

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
