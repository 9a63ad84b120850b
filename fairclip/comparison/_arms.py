"""What is compared: each arm is a name and a way to build its training step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from fairclip.comparison._caps import FairArm, TargetArm
from fairclip.comparison._cuts import CutArm, ThresholdArm
from fairclip.comparison._loss_arms import FairBatchArm, FairGradArm, FairretArm
from fairclip.comparison._rivals import (
    ExponentiatedGradientArm,
    ThresholdOptimizerArm,
    TorchJDArm,
    torchjd_arm,
)
from fairclip.comparison._select import BASELINE
from fairclip.comparison._settings import Settings
from fairclip.comparison._weighted import GroupDROArm, WeightedArm

CapArm: TypeAlias = FairArm | TargetArm
TrainedArm: TypeAlias = (
    CapArm | WeightedArm | GroupDROArm | FairBatchArm | FairGradArm | FairretArm | TorchJDArm
)
FittedOnValidation: TypeAlias = ThresholdArm | ThresholdOptimizerArm
Arm: TypeAlias = TrainedArm | CutArm | FittedOnValidation | ExponentiatedGradientArm

# Kinds of arms that can do without a value, and the one they have then.
_DEFAULTS = {
    "group_dro": 0.01,
    "fairbatch": 0.01,
    "fairgrad": 0.001,
    "fairret": 0.02,
    "exponentiated_gradient": 0.01,
    "threshold_optimizer_tpr": 0.0,
}
_WITH_WORDS = ("fair_cap", "fair_cap_label", "target_cap", "target_cap_worst")


def make_arms(settings: Settings) -> tuple[Arm, ...]:
    """Return the arms in the order of the report; the first is the baseline.

    Raises:
        ModuleNotFoundError: If an arm needs an extra.
        ValueError: If a name is unknown, or a value in it is out of range.
    """
    names = [BASELINE, *(settings.arms or _main(settings)), *settings.rivals]
    return tuple(make_arm(name, settings) for name in dict.fromkeys(names))


def make_arm(name: str, settings: Settings) -> Arm:
    """Return the arm that ``name`` describes: ``kind``, ``kind@value`` or ``kind@value+word``.

    Raises:
        ModuleNotFoundError: If it needs an extra.
        ValueError: If there is none; the message lists those there are.
    """
    kind, at, value = name.partition("@")
    value, *words = value.split("+")
    fixed, scaled = _kinds(settings, words)
    try:
        if kind in fixed:
            if at:
                raise ValueError("it takes no value.")
            return fixed[kind](name)
        is_torchjd = kind.startswith("torchjd:")
        if kind not in scaled and not is_torchjd:
            raise ValueError(f"there are {', '.join([*fixed, *scaled, 'torchjd:<aggregator>'])}.")
        if words and kind not in _WITH_WORDS:
            raise ValueError(f"a + stands behind {', '.join(_WITH_WORDS)} alone.")
        number = _number(value) if at else _DEFAULTS.get(kind, 0.0 if is_torchjd else math.nan)
        if not math.isfinite(number):
            raise ValueError("it needs a finite value, as in fair_cap@2.")
        return torchjd_arm(name, kind, number) if is_torchjd else scaled[kind](name, number)
    except ValueError as error:
        raise ValueError(f"There is no arm {name!r}: {error}") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"behind the @ stands a number, not {text!r}.") from None


def _main(settings: Settings) -> Sequence[str]:
    """Return the names of the arms that are compared unless others are asked for."""
    arms = ["clip_norm"]
    if settings.within in {"all", "both"}:
        arms += [f"fair_cap@{r:g}" for r in settings.max_ratio]
    if settings.within in {"label", "both"} and settings.groups == "cells":
        arms += [f"fair_cap_label@{r:g}" for r in settings.max_ratio]
    if not settings.quick:
        arms += ["fair_cap_step@2"]
        arms += ["fair_cap_label@2+clip" if settings.within == "label" else "fair_cap@2+clip"]
    powers = ("0.5",) if settings.quick else ("0.5", "1")
    arms += [f"reweight@{p}" for p in powers]
    arms += [] if settings.quick else ["group_dro"]
    arms += [f"label_reweight@{p}" for p in powers]
    return [*arms, "threshold"]


def _kinds(
    settings: Settings, words: Sequence[str]
) -> tuple[Mapping[str, Callable[[str], Arm]], Mapping[str, Callable[[str, float], Arm]]]:
    """Return the kinds of arms without a value, and those with one."""

    def cap(within: Literal["all", "label"]) -> Callable[[str, float], Arm]:
        return lambda name, ratio: FairArm.capped(name, ratio, settings, within, words)

    def target(goal: str) -> Callable[[str, float], Arm]:
        return lambda name, gap: TargetArm.aimed(name, goal, gap, words)

    fixed: dict[str, Callable[[str], Arm]] = {
        BASELINE: lambda name: FairArm.uncapped(name, settings),
        "clip_norm": lambda name: FairArm.uncapped(name, settings, clip=True),
        "threshold": ThresholdArm,
        "threshold_optimizer": lambda name: ThresholdOptimizerArm(name, "equalized_odds"),
    }
    scaled: dict[str, Callable[[str, float], Arm]] = {
        "fair_cap": cap("all"),
        "fair_cap_label": cap("label"),
        "fair_cap_step": FairArm.per_step,
        "target_cap": target("equalized_odds"),
        "target_cap_worst": target("worst_cell"),
        "reweight": WeightedArm,
        "reweight_within": lambda name, p: WeightedArm(name, p, within="label"),
        "label_reweight": lambda name, p: WeightedArm(name, p, codes="labels"),
        "group_dro": GroupDROArm,
        "fairbatch": FairBatchArm,
        "fairgrad": FairGradArm,
        "fairret": FairretArm,
        "cut": CutArm,
        "exponentiated_gradient": ExponentiatedGradientArm,
        "threshold_optimizer_tpr": lambda name, tol: ThresholdOptimizerArm(
            name, "true_positive_rate_parity", tol
        ),
    }
    return fixed, scaled
