"""The scikit-learn classifier."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from fairclip.clipping import Mode
from fairclip.groups import GroupEncoder
from fairclip.training._estimator import FairClipEstimator
from fairclip.training._json import from_json, to_json
from fairclip.training._losses import cross_entropies, n_outputs, probabilities
from fairclip.training._rows import Rows


class FairClipClassifier(ClassifierMixin, FairClipEstimator):  # type: ignore[misc]
    """A neural network whose updates bound each demographic group's contribution.

    The groups are cells: every level of the sensitive features times every class. Training uses
    Adam on the cross entropy; batches hold every group as evenly as its rows allow. The inputs
    are not scaled: put a ``StandardScaler`` in front, as for scikit-learn's ``MLPClassifier``.
    Sensitive features are needed to fit and never to predict.

    A bound on gradients is no guarantee about outcomes: compare the predictions with those of
    ``max_ratio=inf`` by `fairclip.metrics.tradeoff`.

    What calls this estimator must hand on the sensitive features, or it trains without a cap and
    warns: scikit-learn's tools do so after ``set_fit_request(sensitive_features=True)`` where its
    metadata routing is enabled. For tools that do not, such as fairlearn's reductions, a subclass
    can look them up by the index of X, as in the second example (in a pipeline, after
    ``set_output(transform="pandas")``).

    Args:
        max_ratio: This field and the next nine are those of `NormCap`. inf measures only.
        reference: See `NormCap`.
        within: See `NormCap`; "label" needs cells.
        smoothing: See `NormCap`.
        floor: See `NormCap`.
        preserve_norm: See `NormCap`.
        scope: See `NormCap`.
        min_reference_rows: See `NormCap`.
        max_factor: See `NormCap`.
        label_balance: See `NormCap`.
        groups: What the cap bounds: "cells", or "sensitive" for the levels of the sensitive
            features alone, whatever the class.
        clip: A mode of `fairclip.clipping` on top of the cap. None: no clip.
        class_weight: What the losses of each class are multiplied by: a dict from labels (1 for
            those it lacks), or "balanced" for one over what the class's rows weigh. None: 1.
        hidden: Units of each hidden layer of the default module, a multi-layer perceptron.
        module: A torch module to train instead. It maps ``(B, n_features)`` float32 to logits,
            ``(B, 1)`` for two classes and ``(B, n_classes)`` for more. It is copied; each fit
            starts from the weights it has. None: the default module.
        epochs: The most passes over the training rows of one `fit`.
        batch_size: Rows per batch.
        lr: Adam's step size.
        early_stopping: Hold rows back, stop when their mean loss no longer falls, and keep the
            weights of the best epoch of the call.
        validation_fraction: Share in (0, 1) of the rows held back, drawn from each cell. What they
            say is their mean loss: a large group's rows decide most of it.
        n_iter_no_change: Epochs without a new least validation loss before stopping.
        warm_start: `fit` goes on where the call before ended, as `partial_fit` does. ``hidden``,
            ``module`` and ``groups`` must be as they were.
        verbose: Show a progress bar with the training loss.
        device: Where to train: "auto" (a GPU if there is one) or a name torch knows. The fitted
            module is put on the CPU, where it predicts and pickles.
        random_state: Of initial weights, batches, dropout and held-back rows. An int makes fits
            repeatable; torch's global random state is left as it was in any case.

    Attributes:
        classes_: The labels, ``(n_classes,)``.
        module_: The fitted module, on the CPU, in evaluation mode.
        encoder_: The fitted `GroupEncoder`; None if there were no sensitive features.
        trace_: The `Trace` of all steps.
        n_iter_: Epochs run, of all calls that went on with it.
        loss_curve_: Mean training loss of each epoch, in nats, rows weighted.
        validation_curve_: Mean validation loss likewise; None without early stopping.
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

        Sensitive features that the caller does not hand on:

        >>> import pandas as pd
        >>> class BySex(FairClipClassifier):
        ...     def fit(self, X, y, *, sample_weight=None):
        ...         sensitive = pd.Series(sex)[X.index]
        ...         return super().fit(
        ...             X, y, sensitive_features=sensitive, sample_weight=sample_weight
        ...         )
        >>> part = pd.DataFrame(X, columns=["a", "b", "c"])[100:]
        >>> int(BySex(epochs=1).fit(part, y[100:]).encoder_.counts_.sum())
        300
    """

    _FORMAT = "fairclip.FairClipClassifier"
    _losses = staticmethod(cross_entropies)

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
        label_balance: float = 0.0,
        groups: Literal["cells", "sensitive"] = "cells",
        clip: Mode | None = None,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
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
        super().__init__(
            max_ratio=max_ratio,
            reference=reference,
            smoothing=smoothing,
            floor=floor,
            preserve_norm=preserve_norm,
            scope=scope,
            min_reference_rows=min_reference_rows,
            clip=clip,
            hidden=hidden,
            module=module,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            warm_start=warm_start,
            verbose=verbose,
            device=device,
            random_state=random_state,
        )
        self.within = within
        self.max_factor = max_factor
        self.label_balance = label_balance
        self.groups = groups
        self.class_weight = class_weight

    def fit(
        self, X: Any, y: ArrayLike, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> Self:
        """Train on the rows of X.

        Args:
            X: Numbers without missing values, a table, an array or sparse. A sparse X is dense one
                batch at a time.
            y: Labels of two or more classes.
            sensitive_features: One or more columns, as `GroupEncoder` takes them. None trains
                without a cap and warns.
            sample_weight: What each row's loss is multiplied by, not negative, after it was scaled
                to a mean of 1. Rows that weigh 0 are left out. The cap's reference and floor go
                by the number of rows, whatever they weigh. None: 1.

        Shape:
            - ``X``: ``(n_rows, n_features)``. ``y``, ``sample_weight``: ``(n_rows,)``.

        Returns:
            The classifier itself.
        """
        goes_on = self.warm_start and hasattr(self, "module_")
        with self._all_or_nothing():
            X, y = self._checked(X, y, goes_on=goes_on)
            if not goes_on:
                self.classes_ = np.unique(y)
            rows = self._rows(X, y, sensitive_features, sample_weight)
            return self._fit(rows, epochs=self.epochs, goes_on=goes_on)

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        *,
        sensitive_features: Any = None,
        sample_weight: Any = None,
    ) -> Self:
        """Go on with one pass over these rows, from where the call before ended.

        Weights, optimizer, averages of the cap, epochs and trace go on. The groups, and the numbers
        of rows that the cap goes by, are those of the first call: combinations that it did not see
        have no group in later ones and are not capped, with a warning, so let it see them all.

        Args:
            X: As in `fit`.
            y: Labels, all of them in ``classes``.
            classes: All labels there are; needed in the first call.
            sensitive_features: As in `fit`.
            sample_weight: As in `fit`, scaled to a mean of 1 in each call.

        Returns:
            The classifier itself.

        Raises:
            ValueError: With ``early_stopping`` or ``class_weight="balanced"``, which need all rows
                at once.
        """
        self._check_takes_parts()
        if self.class_weight == "balanced":
            raise ValueError(
                "`partial_fit` does not know how many rows each class has: give their weights as a "
                "mapping in `class_weight`."
            )
        goes_on = hasattr(self, "module_")
        with self._all_or_nothing():
            X, y = self._checked(X, y, goes_on=goes_on)
            _check_partial_fit_first_call(self, classes)
            rows = self._rows(X, y, sensitive_features, sample_weight)
            return self._fit(rows, epochs=1, goes_on=goes_on)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the classes' probabilities, in the order of ``classes_``.

        Shape:
            - ``X``: ``(n_rows, n_features)``. Output: ``(n_rows, n_classes)``.
        """
        return probabilities(self._outputs(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each row.

        Shape:
            - ``X``: ``(n_rows, n_features)``. Output: ``(n_rows,)``.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _new_encoder(self, rows: Rows) -> GroupEncoder | None:
        if self._makes_cells and len(self.classes_) > 50 and rows.sensitive_features is not None:
            raise ValueError(
                f"`y` has {len(self.classes_)} classes, too many for cells: use groups='sensitive'."
            )
        return super()._new_encoder(rows)

    @property
    def _n_outputs(self) -> int:
        return n_outputs(len(self.classes_))

    @property
    def _makes_cells(self) -> bool:
        return self.groups == "cells"

    def _targets(self, y: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.searchsorted(self.classes_, y))

    def _target_to_json(self) -> dict[str, Any]:
        return {
            "classes": [to_json(label, "classes_") for label in self.classes_.tolist()],
            "classes_dtype": self.classes_.dtype.str,
        }

    def _target_from_json(self, settings: Mapping[str, Any]) -> None:
        labels = [from_json(label) for label in settings["classes"]]
        self.classes_ = np.array(labels, dtype=settings["classes_dtype"])

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.groups not in ("cells", "sensitive"):
            raise ValueError(f"`groups` must be 'cells' or 'sensitive', got {self.groups!r}.")
        if self.groups == "sensitive" and self.within == "label":
            raise ValueError("`within='label'` needs cells: use groups='cells' or within='all'.")

    def _checked(self, X: Any, y: Any, *, goes_on: bool) -> tuple[Any, NDArray[Any]]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float32, reset=not goes_on)
        check_classification_targets(y)
        return X, y

    def _rows(self, X: Any, y: NDArray[Any], sensitive_features: Any, sample_weight: Any) -> Rows:
        if len(self.classes_) < 2:
            raise ValueError(
                f"`y` must hold at least two classes, got one class: {self.classes_[0]!r}."
            )
        if len(new := np.setdiff1d(y, self.classes_)):
            raise ValueError(f"`y` has labels that are not among the classes: {new.tolist()}.")
        rows = super()._rows(X, y, sensitive_features, sample_weight)
        if self.class_weight is None:
            return rows
        codes = np.searchsorted(self.classes_, rows.y)
        if self.class_weight == "balanced":
            return rows.times(1 / np.bincount(codes, weights=rows.weights)[codes])
        by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=rows.y)
        return rows.times(by_class[codes])
