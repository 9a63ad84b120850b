"""The arms of the study: families with equally large grids, by the arms' names."""

from dataclasses import dataclass

BASELINE = "unclipped"
N_ARMS = 8

# For each family the values of its one knob; `exponentiated_gradient` trains some 25 networks for
# each, so that costly settings have the second and the sixth alone.
_RATIO = (2, 1, 0.5, 0.25)
_BALANCED_RATIO = (2, 1)
_BALANCE = (0.33, 0.67, 1)
_POWER = (0.25, 0.5, 0.75, 1)
_LABEL_POWER = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
_CUT = (0.2, 0.3, 0.4, 0.45, 0.55, 0.6, 0.7, 0.8)
_DRO_STEP = (0.001, 0.002, 0.005, 0.01, 0.025, 0.06, 0.13, 0.3)
_FAIRBATCH_STEP = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
_FAIRGRAD_STEP = (0.00003, 0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02)
_FAIRRET_STRENGTH = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
_PREFERENCE = (0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1)
_EPS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
_TOLERANCE = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
_TARGET_CAP = (
    "target_cap@0.01+floor0.3+rate0.3",
    "target_cap@0.02+floor0.3+rate0.3",
    "target_cap@0.05+floor0.3+rate0.3",
    "target_cap@0.02",
    "target_cap_worst@0+soft",
    "target_cap_worst@0.1+soft",
    "target_cap_worst@0.2+soft",
    "target_cap_worst@0.3+soft",
)


@dataclass(frozen=True)
class Family:
    """Arms that differ in how strongly they intervene.

    Attributes:
        name: As on the page.
        arms: `N_ARMS`, the baseline not among them.
        ours: Whether it is fair clipping; all others are its rivals.
        exploratory: Whether it is beside the families that have a goal.
        group_blind: Whether no group has a part in training or prediction.
    """

    name: str
    arms: tuple[str, ...]
    ours: bool = False
    exploratory: bool = False
    group_blind: bool = False


def _grid(arm: str, values: tuple[float, ...], modifier: str = "") -> tuple[str, ...]:
    return tuple(f"{arm}@{value:g}{modifier}" for value in values)


_EXPONENTIATED = Family("exponentiated gradient", _grid("exponentiated_gradient", _EPS))

FAMILIES = (
    Family("NormCap", _grid("fair_cap", _RATIO) + _grid("fair_cap_label", _RATIO), ours=True),
    Family(
        "NormCap+norm",
        _grid("fair_cap", _RATIO, "+norm") + _grid("fair_cap_label", _RATIO, "+norm"),
        ours=True,
        exploratory=True,
    ),
    Family(
        "NormCap+balance",
        _grid("fair_cap_label", _BALANCED_RATIO)
        + tuple(
            arm
            for balance in _BALANCE
            for arm in _grid("fair_cap_label", _BALANCED_RATIO, f"+balance{balance}")
        ),
        ours=True,
    ),
    Family("TargetCap", _TARGET_CAP, ours=True),
    Family("label reweighting", _grid("label_reweight", _LABEL_POWER), group_blind=True),
    Family("thresholds", _grid("cut", _CUT), group_blind=True),
    Family("reweighting", _grid("reweight", _POWER) + _grid("reweight_within", _POWER)),
    Family("group DRO", _grid("group_dro", _DRO_STEP)),
    Family("FairBatch", _grid("fairbatch", _FAIRBATCH_STEP)),
    Family("FairGrad", _grid("fairgrad", _FAIRGRAD_STEP)),
    Family("fairret", _grid("fairret", _FAIRRET_STRENGTH)),
    Family("UPGrad", _grid("torchjd:UPGrad", _PREFERENCE)),
    _EXPONENTIATED,
    Family(
        "threshold optimizer",
        ("threshold_optimizer", *_grid("threshold_optimizer_tpr", _TOLERANCE)),
    ),
)
# Doing nothing, which is compared with as a rival is, and counts for no goal.
NOTHING = Family(BASELINE, ())

OURS = tuple(family.name for family in FAMILIES if family.ours)
EXPLORATORY = tuple(family.name for family in FAMILIES if family.exploratory)
PRIMARY = tuple(name for name in OURS if name not in EXPLORATORY)
RIVALS = tuple(family.name for family in FAMILIES if not family.ours)
GROUP_BLIND = tuple(family.name for family in FAMILIES if family.group_blind)


def arms_of_study(*, costly: bool, smoke: bool) -> tuple[str, ...]:
    """Return the arms of one setting beside the baseline.

    Args:
        costly: Two arms of the family that trains many networks for each.
        smoke: One arm of each family, and of that one none where it is costly.
    """
    arms: list[str] = []
    for family in FAMILIES:
        own = family.arms
        if costly and family is _EXPONENTIATED:
            own = () if smoke else own[1::4]
        arms += own[1:2] if smoke else own
    return tuple(dict.fromkeys(arms))  # a cap can be in two families
