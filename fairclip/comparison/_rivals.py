"""Arms of other libraries."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from fairclip._extras import require
from fairclip.comparison._start import Codes, Start, check_power
from fairclip.training import AggregatedStep

_TORCHJD = "torchjd:"


@dataclass(frozen=True)
class TorchJDArm:
    r"""Combine the gradients of the groups' mean losses by an aggregator of TorchJD.

    The groups are those that the cap bounds. Before that the gradient of group k is multiplied by

    .. math:: w_k = K\, n_k^p \Big/ \sum_j n_j^p

    with :math:`n_k` its training rows: with p = 0 all groups are alike, and with p = 1 the mean
    of the gradients is that of ordinary training. For UPGrad this is its preference vector. The
    aggregator has its own defaults.

    Source:
        https://github.com/SimplexLab/TorchJD, whose documentation names the paper of each
        aggregator; ``UPGrad`` is of Quinton, Rey (https://arxiv.org/abs/2406.16232). Departures are
        named by :class:`fairclip.training.AggregatedStep`.
    """

    name: str
    aggregator: str
    power: float
    codes: ClassVar[Codes] = "groups"
    group_blind: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_power(self.power)

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        preferred = f", each times n^{self.power:g} of its rows" if self.power else ""
        return (
            f"the gradients of the groups' mean losses{preferred}, combined by TorchJD's "
            f"{self.aggregator}."
        )

    def step(self, start: Start) -> AggregatedStep:
        """Return the step for one run."""
        scales = start.encoder.counts_.astype(np.float64) ** self.power  # (K,)
        scales *= len(scales) / scales.sum()
        aggregator = _aggregators()[self.aggregator]()
        return AggregatedStep(len(scales), aggregator, start.seed, torch.from_numpy(scales))


@dataclass(frozen=True)
class ExponentiatedGradientArm:
    """A random mixture of networks with equalized odds on the training part, from fairlearn.

    Each of its networks is trained from the same weights over the same batches as the baseline, on
    labels and row weights that the reduction chooses.

    Source:
        Agarwal, Beygelzimer, Dudík, Langford, Wallach: A Reductions Approach to Fair
        Classification (ICML 2018, https://arxiv.org/abs/1803.02453), Algorithm 1, as
        ``fairlearn.reductions.ExponentiatedGradient`` with ``EqualizedOdds(difference_bound=...)``
        and its defaults: it stops by itself after some 25 networks, at the latest after 50
        iterations. Departure: rows of an unknown group are one more group.

    Raises:
        ValueError: If the bound is not positive.
    """

    name: str
    difference_bound: float
    group_blind: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.difference_bound > 0:
            raise ValueError(f"the bound must be positive, got {self.difference_bound:g}.")

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        return (
            "fairlearn's ExponentiatedGradient for equalized odds within "
            f"{self.difference_bound:g}, a mixture of networks. It needs no group to predict; "
            "which network decides on a row is drawn at random, by the seed. It has predictions "
            "and no scores, hence no AUC and no ECE."
        )


@dataclass(frozen=True)
class ThresholdOptimizerArm:
    """The unclipped model with cuts for each group, chosen on the validation part, from fairlearn.

    Rows of an unknown group have the cut 0.5.

    Source:
        Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning (NeurIPS 2016,
        https://arxiv.org/abs/1610.02413), the derivation from a score, as
        ``fairlearn.postprocessing.ThresholdOptimizer`` with the best accuracy.

    Raises:
        ValueError: If the tolerance is negative.
    """

    name: str
    constraints: Literal["equalized_odds", "true_positive_rate_parity"]
    tol: float | None = None
    group_blind: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.tol is not None and not self.tol >= 0:
            raise ValueError(f"the tolerance must not be negative, got {self.tol:g}.")

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        within = "" if self.tol is None else f" within {self.tol:g}"
        return (
            f"fairlearn's ThresholdOptimizer for {self.constraints.replace('_', ' ')}{within}: "
            "cuts of the unclipped scores for each group, chosen on the validation part, whose "
            "figures therefore flatter it. It needs the group of a row to predict, and some "
            "predictions are drawn at random, by the seed. It has predictions and no scores of its "
            "own, hence no AUC and no ECE."
        )


def torchjd_arm(name: str, kind: str, power: float) -> TorchJDArm:
    """Return the arm ``torchjd:<aggregator>``.

    Raises:
        ModuleNotFoundError: If TorchJD is not installed.
        ValueError: If the aggregator is unknown; the message lists those there are.
    """
    aggregator, known = kind.removeprefix(_TORCHJD), _aggregators()
    if aggregator not in known:
        raise ValueError(
            "of TorchJD's aggregators those fit that need no argument and keep no state of each "
            f"group: {', '.join(map(_TORCHJD.__add__, known))}."
        )
    return TorchJDArm(name, aggregator, power)


def _aggregators() -> dict[str, Any]:
    """Return TorchJD's aggregators of any number of gradients, by name."""
    aggregation = require("torchjd.aggregation", "baselines")
    stateful = require("torchjd", "baselines").Stateful
    classes = {name: getattr(aggregation, name) for name in aggregation.__all__}
    return {
        name: found
        for name, found in classes.items()
        if issubclass(found, aggregation.Aggregator)
        and not inspect.isabstract(found)
        and not issubclass(found, stateful)
        and all(
            parameter.default is not inspect.Parameter.empty
            for parameter in inspect.signature(found).parameters.values()
        )
    }
