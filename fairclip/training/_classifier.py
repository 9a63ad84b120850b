"""The scikit-learn classifier."""

import warnings
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from fairclip.exceptions import FairclipWarning
from fairclip.groups import GroupEncoder
from fairclip.training._estimator import FairClipEstimator
from fairclip.training._loop import infer
from fairclip.training._losses import n_outputs, probabilities, row_losses
from fairclip.training._saving import load_classifier, save_classifier


class FairClipClassifier(ClassifierMixin, FairClipEstimator):  # type: ignore[misc]
    """A neural network whose updates bound each demographic group's contribution.

    The groups are cells: every level of the sensitive features times every class. Training uses
    Adam on the cross entropy; batches hold every group as evenly as its rows allow. The inputs
    are not scaled: put a ``StandardScaler`` in front, as for scikit-learn's ``MLPClassifier``.
    Sensitive features are needed to fit and never to predict.

    A bound on gradients is no guarantee about outcomes: compare the predictions with those of
    ``max_ratio=inf`` by `fairclip.metrics.tradeoff`.

    Args:
        max_ratio: This field and the next eight are those of `NormCap`. inf measures only.
        reference: See `NormCap`.
        within: See `NormCap`.
        smoothing: See `NormCap`.
        floor: See `NormCap`.
        preserve_norm: See `NormCap`.
        scope: See `NormCap`.
        min_reference_rows: See `NormCap`.
        max_factor: See `NormCap`.
        clip: A mode of `fairclip.clipping` on top of the cap. None: no clip.
        hidden: Units of each hidden layer of the default module, a multi-layer perceptron.
        module: A torch module to train instead. It maps ``(B, n_features)`` float32 to logits,
            ``(B, 1)`` for two classes and ``(B, n_classes)`` for more. It is copied; each fit
            starts from the weights it has. None: the default module.
        epochs: The most passes over the training rows.
        batch_size: Rows per batch.
        lr: Adam's step size.
        early_stopping: Hold rows back, stop when their mean loss no longer falls, and keep the
            weights of the best epoch.
        validation_fraction: Share in (0, 1) of the rows held back, drawn by class.
        n_iter_no_change: Epochs without a new least validation loss before stopping.
        verbose: Show a progress bar.
        device: Where to train: "auto" (a GPU if there is one) or a name torch knows. The fitted
            module is put on the CPU, where it predicts and pickles.
        random_state: Of initial weights, batches, dropout and held-back rows. An int makes fits
            repeatable; torch's global random state is left as it was in any case.

    Attributes:
        classes_: The labels, ``(n_classes,)``.
        module_: The fitted module, on the CPU, in evaluation mode.
        encoder_: The fitted `GroupEncoder`; None if there were no sensitive features.
        trace_: The `Trace` of all steps.
        n_iter_: Epochs run.
        loss_curve_: Mean training loss of each epoch, in nats.
        validation_curve_: Mean validation loss of each epoch; None without early stopping.
        n_features_in_: Columns of X.
        feature_names_in_: Their names, if X had names.

    Raises:
        ValueError: At `fit`, for what is out of range, one class in y, or a module whose outputs
            do not fit.

    Example:
        >>> import numpy as np
        >>> from fairclip import FairClipClassifier
        >>> rng = np.random.default_rng(0)
        >>> sex = rng.choice(["female", "male"], size=400, p=[0.3, 0.7])
        >>> X = rng.normal(size=(400, 3))
        >>> y = X[:, 0] + rng.normal(size=400) > 0
        >>> model = FairClipClassifier(max_ratio=1.5, epochs=5, lr=0.01, random_state=0)
        >>> model.fit(X, y, sensitive_features=sex).predict(X).shape
        (400,)
        >>> len(model.trace_.to_frame()) == 5 * 4
        True
    """

    def fit(self, X: ArrayLike, y: ArrayLike, *, sensitive_features: Any = None) -> Self:
        """Train on the rows of X.

        Args:
            X: Numbers without missing values.
            y: Labels of two or more classes.
            sensitive_features: One or more columns, as `GroupEncoder` takes them. None trains
                without a cap and warns.

        Shape:
            - ``X``: ``(n_rows, n_features)``. ``y``: ``(n_rows,)``.

        Returns:
            The classifier itself.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(labels)
        check_consistent_length(rows, sensitive_features)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"`y` must hold at least two classes, got one class: {self.classes_[0]!r}."
            )
        self._check_parameters()
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        held_back = None
        if self.early_stopping:
            rows, labels, sensitive_features, held_back = self._hold_back(
                rows, labels, sensitive_features, seed
            )
        encoder, groups = None, np.zeros(len(labels), dtype=np.int64)
        if sensitive_features is None:
            warnings.warn(
                "No `sensitive_features`: training without a cap. Pass them to `fit`.",
                FairclipWarning,
                stacklevel=2,
            )
        else:
            encoder = GroupEncoder(with_label=True).fit(sensitive_features, labels)
            groups = encoder.transform(sensitive_features, labels)
        self._train(
            *self._tensors(rows, labels),
            groups,
            encoder,
            held_back,
            loss_fn=row_losses,
            n_outputs=n_outputs(len(self.classes_)),
            seed=seed,
        )
        return self

    def _hold_back(
        self, X: NDArray[np.float32], y: NDArray[Any], sensitive_features: Any, seed: int
    ) -> tuple[NDArray[np.float32], NDArray[Any], Any, tuple[Tensor, Tensor]]:
        """Return the training part of all three, and the validation part as tensors."""
        arrays = [X, y] if sensitive_features is None else [X, y, sensitive_features]
        X, X_held, y, y_held, *sensitive = train_test_split(
            *arrays, test_size=self.validation_fraction, stratify=y, random_state=seed
        )
        return X, y, sensitive[0] if sensitive else None, self._tensors(X_held, y_held)

    def _tensors(self, X: NDArray[np.float32], y: NDArray[Any]) -> tuple[Tensor, Tensor]:
        codes = np.searchsorted(self.classes_, y)
        return torch.tensor(X), torch.from_numpy(codes)  # a copy: X may be read-only

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the classes' probabilities, in the order of ``classes_``.

        Shape:
            - ``X``: ``(n_rows, n_features)``. Output: ``(n_rows, n_classes)``.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return probabilities(infer(self.module_, torch.tensor(X)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable label of each row.

        Shape:
            - ``X``: ``(n_rows, n_features)``. Output: ``(n_rows,)``.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def save(self, path: str | PathLike[str]) -> None:
        """Write what prediction needs into the folder ``path``: see `load`.

        A saved model that is already there is replaced; the folder appears at once or not at all.
        ``trace_`` and ``encoder_`` are not saved.

        Raises:
            ValueError: If ``path`` is something else than a saved model, or a parameter has no
                JSON form.
        """
        check_is_fitted(self)
        save_classifier(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], *, module: nn.Module | None = None) -> Self:
        """Read a folder that `save` wrote: weights as safetensors, the rest as JSON, no pickle.

        Args:
            path: The folder.
            module: A module of the kind the model was trained with, if that was not the default
                one. It is copied, and its weights are replaced.

        Raises:
            ValueError: If ``path`` is not a saved model or ``module`` does not fit it.
        """
        return load_classifier(cls, path, module)
