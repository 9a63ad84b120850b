"""Arms on demand: rules of other libraries, by the names under which `rivals` asks for them."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from fairclip._extras import require
from fairclip.comparison._start import Codes, Start
from fairclip.training import AggregatedStep

_TORCHJD = "torchjd:"


@dataclass(frozen=True)
class TorchJDArm:
    """Combine the gradients of the groups' mean losses by an aggregator of TorchJD.

    The groups are those that the cap bounds. The aggregator has its own defaults.

    Source:
        https://github.com/SimplexLab/TorchJD, whose documentation names the paper of each
        aggregator; ``UPGrad`` is of Quinton, Rey (https://arxiv.org/abs/2406.16232). Departures are
        named by :class:`fairclip.training.AggregatedStep`.
    """

    name: str
    codes: ClassVar[Codes] = "groups"
    group_blind: ClassVar[bool] = False

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        aggregator = self.name.removeprefix(_TORCHJD)
        return f"the gradients of the groups' mean losses, combined by TorchJD's {aggregator}."

    def step(self, start: Start) -> AggregatedStep:
        """Return the step for one run."""
        aggregator = _aggregators()[self.name.removeprefix(_TORCHJD)]
        return AggregatedStep(len(start.encoder.names_), aggregator(), start.seed)


@dataclass(frozen=True)
class ExponentiatedGradientArm:
    """A random mixture of networks with equalized odds on the training part, from fairlearn.

    Each of its networks is trained from the same weights over the same batches as the baseline, on
    labels and row weights that the reduction chooses.

    Source:
        Agarwal, Beygelzimer, Dudík, Langford, Wallach: A Reductions Approach to Fair
        Classification (ICML 2018, https://arxiv.org/abs/1803.02453), Algorithm 1, as
        ``fairlearn.reductions.ExponentiatedGradient`` with ``EqualizedOdds()`` and its defaults: it
        stops by itself after some 25 networks, at the latest after 50 iterations. Departure: rows
        of an unknown group are one more group.
    """

    name: str = "exponentiated_gradient"
    group_blind: ClassVar[bool] = False
    note: ClassVar[str] = (
        "fairlearn's ExponentiatedGradient for equalized odds, a mixture of networks. It needs no "
        "group to predict; which network decides on a row is drawn at random, by the seed. It has "
        "predictions and no scores, hence no AUC and no ECE."
    )


@dataclass(frozen=True)
class ThresholdOptimizerArm:
    """The unclipped model with cuts for each group, chosen on the validation part, from fairlearn.

    Rows of an unknown group have the cut 0.5.

    Source:
        Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning (NeurIPS 2016,
        https://arxiv.org/abs/1610.02413), the derivation from a score, as
        ``fairlearn.postprocessing.ThresholdOptimizer`` for equalized odds with the best accuracy.
    """

    name: str = "threshold_optimizer"
    group_blind: ClassVar[bool] = False
    note: ClassVar[str] = (
        "fairlearn's ThresholdOptimizer for equalized odds: cuts of the unclipped scores for each "
        "group, chosen on the validation part, whose figures therefore flatter it. It needs the "
        "group of a row to predict, and some predictions are drawn at random, by the seed. It has "
        "predictions and no scores of its own, hence no AUC and no ECE."
    )


Rival: TypeAlias = TorchJDArm | ExponentiatedGradientArm | ThresholdOptimizerArm

_FAIRLEARN = {arm.name: arm for arm in (ExponentiatedGradientArm(), ThresholdOptimizerArm())}


def make_rivals(names: Sequence[str]) -> tuple[Rival, ...]:
    """Return the arms with these names.

    Raises:
        ModuleNotFoundError: If one of them needs TorchJD, and it is not installed.
        ValueError: If a name is unknown; the message lists those there are.
    """
    return tuple(map(_make_rival, names))


def _make_rival(name: str) -> Rival:
    if name in _FAIRLEARN:
        return _FAIRLEARN[name]
    if not name.startswith(_TORCHJD):
        raise ValueError(
            f"`rivals` (--rivals) must be of {', '.join(_FAIRLEARN)} and {_TORCHJD}<aggregator> "
            f"such as {_TORCHJD}UPGrad, got {name!r}."
        )
    known = _aggregators()
    if name.removeprefix(_TORCHJD) not in known:
        raise ValueError(
            f"`rivals` (--rivals) has no {name!r}. Of TorchJD's aggregators those fit that need no "
            f"argument and keep no state of each group: {', '.join(map(_TORCHJD.__add__, known))}."
        )
    return TorchJDArm(name)


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
