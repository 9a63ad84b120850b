"""The scikit-learn regressor."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data
from torch import Tensor

from fairclip.training._estimator import FairClipEstimator
from fairclip.training._losses import squared_errors
from fairclip.training._rows import Rows


class FairClipRegressor(RegressorMixin, FairClipEstimator):  # type: ignore[misc]
    """A neural network for a number, whose updates bound each demographic group's contribution.

    The groups are the levels of the sensitive features. Training uses Adam on the squared error of
    y in standard deviations from its mean, so that neither the learning rate nor a clip depends on
    the units of y; predictions are in these units. Batches hold every group as evenly as its rows
    allow. The inputs are not scaled: put a ``StandardScaler`` in front, as for scikit-learn's
    ``MLPRegressor``. Sensitive features are needed to fit and never to predict.

    Near an optimum the gradients of two groups cancel, so that their norms are equal and a cap of 1
    or more does nothing: what it changes is the way there. A bound on gradients is no guarantee
    about outcomes: compare the predictions with those of ``max_ratio=inf`` by
    `fairclip.metrics.tradeoff`.

    As with `FairClipClassifier`, what calls this estimator must hand on the sensitive features.

    Args:
        max_ratio: This field and the next six are those of `NormCap`. inf measures only.
        reference: See `NormCap`.
        smoothing: See `NormCap`.
        floor: See `NormCap`.
        preserve_norm: See `NormCap`.
        scope: See `NormCap`.
        min_reference_rows: See `NormCap`.
        clip: A mode of `fairclip.clipping` on top of the cap. None: no clip.
        hidden: Units of each hidden layer of the default module, a multi-layer perceptron.
        module: A torch module to train instead. It maps ``(B, n_features)`` float32 to ``(B, 1)``,
            in standard deviations of y from its mean. It is copied; each fit starts from the
            weights it has. None: the default module.
        epochs: The most passes over the training rows of one `fit`.
        batch_size: Rows per batch.
        lr: Adam's step size.
        early_stopping: Hold rows back, stop when their mean loss no longer falls, and keep the
            weights of the best epoch of the call.
        validation_fraction: Share in (0, 1) of the rows held back, drawn from each group. What they
            say is their mean loss: a large group's rows decide most of it.
        n_iter_no_change: Epochs without a new least validation loss before stopping.
        warm_start: `fit` goes on where the call before ended, as `partial_fit` does. ``hidden``
            and ``module`` must be as they were.
        verbose: Show a progress bar with the training loss.
        device: Where to train: "auto" (a GPU if there is one) or a name torch knows. The fitted
            module is put on the CPU, where it predicts and pickles.
        random_state: Of initial weights, batches, dropout and held-back rows. An int makes fits
            repeatable; torch's global random state is left as it was in any case.

    Attributes:
        target_mean_: The mean of y in the first call, rows weighted, in the units of y.
        target_scale_: Its standard deviation likewise; 1 where y is constant.
        module_: The fitted module, on the CPU, in evaluation mode.
        encoder_: The fitted `GroupEncoder`; None if there were no sensitive features.
        trace_: The `Trace` of all steps.
        n_iter_: Epochs run, of all calls that went on with it.
        loss_curve_: Mean training loss of each epoch, as a share of the variance of y, rows
            weighted.
        validation_curve_: Mean validation loss likewise; None without early stopping.
        n_features_in_: Columns of X.
        feature_names_in_: Their names, if X had names.

    Raises:
        ValueError: At `fit`, for what is out of range or a module whose outputs do not fit.

    Example:
        >>> import numpy as np
        >>> from fairclip import FairClipRegressor
        >>> rng = np.random.default_rng(0)
        >>> sex = rng.choice(["female", "male"], size=400, p=[0.3, 0.7])
        >>> X = rng.normal(size=(400, 3))
        >>> y = 40_000 + 9_000 * X[:, 0] + rng.normal(size=400)
        >>> model = FairClipRegressor(max_ratio=1.5, epochs=20, lr=0.01, random_state=0)
        >>> model.fit(X, y, sensitive_features=sex).score(X, y) > 0.9
        True
        >>> model.encoder_.names_
        ['sensitive_feature_0=female', 'sensitive_feature_0=male']
    """

    _FORMAT = "fairclip.FairClipRegressor"
    _losses = staticmethod(squared_errors)
    _n_outputs = 1
    _makes_cells = False

    def fit(
        self, X: Any, y: ArrayLike, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> Self:
        """Train on the rows of X.

        Args:
            X: Numbers without missing values, a table, an array or sparse. A sparse X is dense one
                batch at a time.
            y: Numbers.
            sensitive_features: One or more columns, as `GroupEncoder` takes them. None trains
                without a cap and warns.
            sample_weight: What each row's loss is multiplied by, not negative, after it was scaled
                to a mean of 1. Rows that weigh 0 are left out. The cap's reference and floor go
                by the number of rows, whatever they weigh. None: 1.

        Shape:
            - ``X``: ``(n_rows, n_features)``. ``y``, ``sample_weight``: ``(n_rows,)``.

        Returns:
            The regressor itself.
        """
        goes_on = self.warm_start and hasattr(self, "module_")
        with self._all_or_nothing():
            rows = self._checked(X, y, sensitive_features, sample_weight, goes_on=goes_on)
            return self._fit(rows, epochs=self.epochs, goes_on=goes_on)

    def partial_fit(
        self, X: Any, y: ArrayLike, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> Self:
        """Go on with one pass over these rows, from where the call before ended.

        Weights, optimizer, averages of the cap, epochs and trace go on. The mean and the deviation
        of y, the groups, and the numbers of rows that the cap goes by are those of the first call:
        combinations that it did not see have no group in later ones and are not capped, with a
        warning, so let it see them all.

        Args:
            X: As in `fit`.
            y: Numbers.
            sensitive_features: As in `fit`.
            sample_weight: As in `fit`, scaled to a mean of 1 in each call.

        Returns:
            The regressor itself.

        Raises:
            ValueError: With ``early_stopping``.
        """
        self._check_takes_parts()
        goes_on = hasattr(self, "module_")
        with self._all_or_nothing():
            rows = self._checked(X, y, sensitive_features, sample_weight, goes_on=goes_on)
            return self._fit(rows, epochs=1, goes_on=goes_on)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the expected number of each row, in the units of y.

        Shape:
            - ``X``: ``(n_rows, n_features)``. Output: ``(n_rows,)``.
        """
        outputs = self._outputs(X).squeeze(1).double().numpy()
        predicted: NDArray[np.float64] = outputs * self.target_scale_ + self.target_mean_
        return predicted

    def _targets(self, y: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.float32((y - self.target_mean_) / self.target_scale_))

    def _target_to_json(self) -> dict[str, Any]:
        return {"target_mean": self.target_mean_, "target_scale": self.target_scale_}

    def _target_from_json(self, settings: Mapping[str, Any]) -> None:
        self.target_mean_ = settings["target_mean"]
        self.target_scale_ = settings["target_scale"]

    def _checked(
        self, X: Any, y: Any, sensitive_features: Any, sample_weight: Any, *, goes_on: bool
    ) -> Rows:
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=np.float32, y_numeric=True, reset=not goes_on
        )
        rows = self._rows(X, y.astype(np.float64), sensitive_features, sample_weight)
        if not goes_on:
            self.target_mean_, self.target_scale_ = _mean_and_deviation(rows.y, rows.weights)
        return rows


def _mean_and_deviation(
    y: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> tuple[float, float]:
    """Return the mean of y and its standard deviation, 1 where y is constant but for rounding."""
    unit = float(np.abs(y).max()) or 1.0  # so that no square is 0 or overflows
    mean = float(np.average(y / unit, weights=weights))
    off = y / unit - mean
    if np.abs(off).max() <= 8 * np.finfo(np.float64).eps:
        return mean * unit, 1.0
    deviation = float(np.sqrt(np.average(off**2, weights=weights)))
    return mean * unit, deviation * unit
