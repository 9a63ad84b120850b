"""What is compared: each arm is a name and a way to build its training step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from fairclip.capping import TargetCap
from fairclip.comparison._caps import FairArm, TargetArm
from fairclip.comparison._cuts import CutArm, ThresholdArm
from fairclip.comparison._loss_arms import FairBatchArm, FairGradArm, FairretArm
from fairclip.comparison._rivals import (
    ExponentiatedGradientArm,
    ThresholdOptimizerArm,
    TorchJDArm,
    torchjd_arm,
)
from fairclip.comparison._settings import Settings
from fairclip.comparison._weighted import GroupDROArm, WeightedArm

BASELINE = "unclipped"

CapArm: TypeAlias = FairArm | TargetArm
TrainedArm: TypeAlias = (
    CapArm | WeightedArm | GroupDROArm | FairBatchArm | FairGradArm | FairretArm | TorchJDArm
)
Arm: TypeAlias = (
    TrainedArm | CutArm | ThresholdArm | ExponentiatedGradientArm | ThresholdOptimizerArm
)

# The value behind the @, None without one. Those that have no default raise without it.
_Make: TypeAlias = Callable[[str, float | None], Arm]


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
    value, *words = value.split("+") if at else ("",)
    kinds = _kinds(settings, words)
    try:
        number = float(value) if at else None
        if number is not None and not math.isfinite(number):
            raise ValueError(f"the value in it must be finite, got {value}.")
        if kind.startswith("torchjd:") and not words:
            return torchjd_arm(name, kind, 0.0 if number is None else number)
        if kind not in kinds or (words and kind not in _CAPS):
            raise ValueError(
                f"there are {', '.join([*kinds, 'torchjd:<aggregator>'])}; behind most of them "
                "stands a value, as in fair_cap@2."
            )
        return kinds[kind](name, number)
    except ValueError as error:
        raise ValueError(f"There is no arm {name!r}: {error}") from error


_CAPS = ("fair_cap", "fair_cap_label")


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


def _kinds(settings: Settings, words: Sequence[str]) -> Mapping[str, _Make]:
    def cap(within: Literal["all", "label"]) -> _Make:
        return lambda name, ratio: FairArm.capped(name, _needed(ratio), settings, within, words)

    return {
        BASELINE: lambda name, _: FairArm.uncapped(name, settings),
        "clip_norm": lambda name, _: FairArm.uncapped(name, settings, clip=True),
        "fair_cap": cap("all"),
        "fair_cap_label": cap("label"),
        "fair_cap_step": lambda name, ratio: FairArm.per_step(name, _needed(ratio)),
        "target_cap": lambda name, gap: TargetArm(
            name, TargetCap("equalized_odds", gap=_needed(gap))
        ),
        "target_cap_worst": lambda name, gap: TargetArm(
            name, TargetCap("worst_cell", gap=_needed(gap))
        ),
        "reweight": lambda name, p: WeightedArm(name, _needed(p)),
        "reweight_within": lambda name, p: WeightedArm(name, _needed(p), within="label"),
        "label_reweight": lambda name, p: WeightedArm(name, _needed(p), codes="labels"),
        "group_dro": lambda name, eta: GroupDROArm(name, 0.01 if eta is None else eta),
        "fairbatch": lambda name, alpha: FairBatchArm(name, _needed(alpha)),
        "fairgrad": lambda name, eta: FairGradArm(name, _needed(eta)),
        "fairret": lambda name, strength: FairretArm(name, _needed(strength)),
        "cut": lambda name, cut: CutArm(name, _needed(cut)),
        "threshold": lambda name, _: ThresholdArm(name),
        "exponentiated_gradient": lambda name, eps: ExponentiatedGradientArm(
            name, 0.01 if eps is None else eps
        ),
        "threshold_optimizer": lambda name, _: ThresholdOptimizerArm(name, "equalized_odds"),
        "threshold_optimizer_tpr": lambda name, tol: ThresholdOptimizerArm(
            name, "true_positive_rate_parity", tol
        ),
    }


def _needed(value: float | None) -> float:
    if value is None:
        raise ValueError("it needs a value, as in fair_cap@2.")
    return value
