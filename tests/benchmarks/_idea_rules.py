"""The ideas, what they are measured against, and their strengths."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fairclip import FairClipper, NormCap, TargetCap
from fairclip.comparison._arms import TrainedArm, make_arm
from fairclip.training import FairStep, Step
from tests.benchmarks._idea_adam import by_adam
from tests.benchmarks._idea_head import of_head
from tests.benchmarks._idea_memory import from_step, leak, nothing
from tests.benchmarks._idea_rates import HeldBackStep, at_cut, hold_back, shrunk, soft
from tests.benchmarks._idea_ratio import ratio_by_target
from tests.benchmarks._idea_reference import highest_loss
from tests.benchmarks._idea_setting import Beginning
from tests.benchmarks._idea_share import by_share
from tests.benchmarks._idea_steps import Factors, MixedStep, ObservedStep
from tests.benchmarks._idea_two_knobs import two_knobs

RATIOS = (4.0, 2.0, 1.0, 0.5)
GAPS = (0.1, 0.05, 0.02, 0.0)
WORST_GAPS = (0.3, 0.2, 0.1, 0.05)
# Of factors proportional to the gaps.
RATES = (4.0, 8.0, 16.0, 32.0)
WORST_RATES = (1.0, 2.0, 4.0, 8.0)
POWERS = (0.25, 0.5, 0.75, 1.0)
# What the cut of validation scores may lose in accuracy.
LOSSES = (0.005, 0.01, 0.02, 0.05)

# Not run on large tables: what is for small cells or few steps, and close kin of other forms.
SMALL_ONLY = frozenset(
    [
        *(
            f"{base}, {what}"
            for base in ("target_cap", "target_cap_worst")
            for what in (
                "rate 30 / steps",
                "shrunk by 100 rows",
                "shrunk by 100 rows, rate 1",
                "held back, rate 1",
            )
        ),
        "target_cap_worst, held back",
        "target_cap_worst, rate 0.3, smoothing 0.9",
        "fair_cap, layer",
        "fair_cap_label, layer",
        "fair_cap_label, head",
        "fair_cap_label, smallest norm",
        "two knobs, within 1",
        "ratio by target, rate 0.1",
    ]
)

# A step, and the codes (n,) of the training rows that it wants.
Made: TypeAlias = tuple[Step, NDArray[np.int64]]
Within: TypeAlias = Literal["all", "label"]


@dataclass(frozen=True)
class Rule:
    """A way to train, at several strengths.

    Attributes:
        name: In the table.
        make: From a beginning and a strength.
        strengths: One arm for each.
        idea: What it is a form of; empty for what there is.
        against: The rules that it is measured against.
        at_base_rate: Predict 1 from a score of the training rows' base rate on, not of 0.5 on.
        then_cut: Name of the rule that cuts its scores by `choose_cut` on top; empty for none.
    """

    name: str
    make: Callable[[Beginning, float], Made]
    strengths: tuple[float, ...]
    idea: str = ""
    against: tuple[str, ...] = ()
    at_base_rate: bool = False
    then_cut: str = ""

    @property
    def start(self) -> str:
        """Return the rule without any intervention that shares its cut."""
        return "unclipped, cut at base rate" if self.at_base_rate else "unclipped"


def rules(*, large: bool = False) -> tuple[Rule, ...]:
    """Return all that is trained, on a large table; what there is comes first."""
    found = (*_existing(), *_of_targets(), *_of_norms())
    return tuple(rule for rule in found if not (large and rule.name in SMALL_ONLY))


def _existing() -> Iterator[Rule]:
    yield Rule("unclipped", _arm("unclipped"), (0.0,))
    for name, strengths in (
        ("fair_cap", RATIOS),
        ("fair_cap_label", RATIOS),
        ("target_cap", GAPS),
        ("target_cap_worst", WORST_GAPS),
    ):
        yield Rule(name, _arm(name), strengths, then_cut=f"{name} + threshold")
    for name in ("reweight", "reweight_within"):
        yield Rule(name, _arm(name), POWERS, then_cut=f"{name} + threshold")
    yield Rule("label_reweight", _arm("label_reweight"), POWERS)
    yield Rule("torchjd:UPGrad", _arm("torchjd:UPGrad"), (0.0,))


def _arm(kind: str) -> Callable[[Beginning, float], Made]:
    def make(beginning: Beginning, strength: float) -> Made:
        start, settings = beginning.start, beginning.run.trainer.settings
        name = "unclipped" if kind == "unclipped" else f"{kind}@{strength:g}"
        arm = make_arm(name, settings)
        assert isinstance(arm, TrainedArm)
        return arm.step(start), start.codes[arm.codes]

    return make


def _of_targets() -> Iterator[Rule]:
    """Yield the forms of `TargetCap`: "what", rate and smoothing, and how they observe."""
    eo, worst = (
        ("target_cap", "equalized_odds", GAPS),
        ("target_cap_worst", "worst_cell", WORST_GAPS),
    )
    for base, target, gaps in (eo, worst):
        for idea, what, form in (
            ("rate and smoothing", "rate 0.3", _Form(rate=0.3)),
            ("rate and smoothing", "rate 1", _Form(rate=1)),
            ("rate and smoothing", "rate 0.3, smoothing 0.9", _Form(rate=0.3, smoothing=0.9)),
            ("rate and smoothing", "rate 30 / steps", _Form(rate_of_epoch=30)),
            ("soft rates", "soft", _Form(observes="soft")),
            ("soft rates", "soft, rate 0.3", _Form(observes="soft", rate=0.3)),
            ("soft rates", "soft, rate 1", _Form(observes="soft", rate=1)),
            ("shrunk rates", "shrunk by 100 rows", _Form(observes="shrunk")),
            ("shrunk rates", "shrunk by 100 rows, rate 1", _Form(observes="shrunk", rate=1)),
            ("memory of the factors", "leak 0.02", _Form(observes="leak")),
            ("memory of the factors", "leak 0.02, rate 0.3", _Form(observes="leak", rate=0.3)),
            ("memory of the factors", "from epoch 2", _Form(observes="late")),
            ("memory of the factors", "from epoch 2, rate 0.3", _Form(observes="late", rate=0.3)),
            ("held-back rates", "held back", _Form(observes="held")),
            ("held-back rates", "held back, rate 1", _Form(observes="held", rate=1)),
        ):
            rate = what.partition(", ")[2]  # if it has another one, so has what it is held against
            against = (base, f"{base}, {rate}") if rate.startswith("rate") else (base,)
            name = f"{base}, {what}"
            yield Rule(name, form.make(target), gaps, idea, against)
        yield Rule(
            f"{base}, proportional",
            _proportional(target),
            WORST_RATES if target == "worst_cell" else RATES,
            "memory of the factors",
            (base,),
        )
    base = "target_cap, cut at base rate"
    yield Rule(base, _arm("target_cap"), GAPS, at_base_rate=True)
    yield Rule(
        "target_cap, rates at base rate",
        _Form(observes="cut").make("equalized_odds"),
        GAPS,
        "rates at the user's threshold",
        (base,),
        at_base_rate=True,
    )


@dataclass(frozen=True)
class _Form:
    observes: Literal["hits", "soft", "shrunk", "held", "cut", "leak", "late"] = "hits"
    rate: float = 0.1
    smoothing: float = 0.98
    rate_of_epoch: float | None = None

    def make(self, target: str) -> Callable[[Beginning, float], Made]:
        def make(beginning: Beginning, gap: float) -> Made:
            start = beginning.start
            encoder, codes = start.encoder, start.codes["groups"]
            rate = self.rate
            if self.rate_of_epoch is not None:
                rate = self.rate_of_epoch / beginning.run.steps_per_epoch
            cap = TargetCap(target, gap=gap, rate=rate, smoothing=self.smoothing)
            match self.observes:
                case "soft":
                    return ObservedStep(cap, encoder, soft), codes
                case "cut":
                    base_rate = float(beginning.run.train_targets.mean())
                    return ObservedStep(cap, encoder, at_cut(base_rate)), codes
                case "shrunk":
                    return ObservedStep(cap, encoder, adjust=shrunk(encoder, _SHRINK_ROWS)), codes
                case "leak":
                    return ObservedStep(cap, encoder, keep=leak(_LEAK)), codes
                case "late":
                    late = from_step(beginning.run.steps_per_epoch)
                    return ObservedStep(cap, encoder, keep=late), codes
                case "held":
                    held = hold_back(codes, len(encoder.names_), start.seed)
                    return HeldBackStep(cap, encoder), held
            return ObservedStep(cap, encoder), codes

        return make


_SHRINK_ROWS = 100
_LEAK = 0.02


def _proportional(target: str) -> Callable[[Beginning, float], Made]:
    def make(beginning: Beginning, rate: float) -> Made:
        start = beginning.start
        cap = TargetCap(target, gap=0.0, rate=rate)
        return ObservedStep(cap, start.encoder, keep=nothing), start.codes["groups"]

    return make


def _of_norms() -> Iterator[Rule]:
    """Yield the forms of `NormCap`."""
    bases: tuple[tuple[str, Within], ...] = (("fair_cap", "all"), ("fair_cap_label", "label"))
    for base, within in bases:
        for idea, what, make in (
            (
                "share of the update",
                "share",
                _mixed(within, lambda cap, b: by_share(cap, b.start.encoder)),
            ),
            ("scope", "layer", _plain(within, scope="layer")),
            (
                "scope",
                "head",
                _mixed(within, lambda cap, b: of_head(cap, b.start.encoder, b.start.model)),
            ),
            (
                "Adam's contribution",
                "adam",
                _mixed(within, lambda cap, b: by_adam(cap, b.start.encoder, b.optimizer)),
            ),
            ("reference", "smallest norm", _plain(within, reference="smallest_norm")),
        ):
            yield Rule(f"{base}, {what}", make, RATIOS, idea, (base,))
    yield Rule(
        "fair_cap, highest loss",
        _mixed("all", lambda cap, b: highest_loss(cap, b.start.encoder)),
        RATIOS,
        "reference",
        ("fair_cap",),
    )
    for what, fixed in (("two knobs, within 1", 1.0), ("two knobs, both", None)):
        yield Rule(what, _two_knobs(fixed), RATIOS, "two knobs", ("fair_cap", "fair_cap_label"))
    for rate in (0.1, 1.0):
        yield Rule(
            f"ratio by target, rate {rate:g}",
            _ratio_by_target(rate),
            GAPS,
            "a target sets the ratio",
            ("fair_cap_label", "target_cap"),
        )


def _plain(within: Within, **fields: Any) -> Callable[[Beginning, float], Made]:
    """Return a cap with other fields."""

    def make(beginning: Beginning, ratio: float) -> Made:
        start = beginning.start
        cap = replace(beginning.run.trainer.settings.cap(ratio, within), **fields)
        return FairStep(FairClipper(start.model, cap, encoder=start.encoder)), start.codes["groups"]

    return make


def _mixed(
    within: Within, factors: Callable[[NormCap, Beginning], Factors]
) -> Callable[[Beginning, float], Made]:
    """Return other factors from the same cap."""

    def make(beginning: Beginning, ratio: float) -> Made:
        cap = beginning.run.trainer.settings.cap(ratio, within)
        return _mix(beginning, factors(cap, beginning))

    return make


def _two_knobs(fixed: float | None) -> Callable[[Beginning, float], Made]:
    def make(beginning: Beginning, ratio: float) -> Made:
        cap = beginning.run.trainer.settings.cap
        inside = cap(ratio if fixed is None else fixed, "label")
        return _mix(beginning, two_knobs(inside, cap(ratio), beginning.start.encoder))

    return make


def _ratio_by_target(rate: float) -> Callable[[Beginning, float], Made]:
    def make(beginning: Beginning, gap: float) -> Made:
        cap = beginning.run.trainer.settings.cap(1.0, "label")
        return _mix(beginning, ratio_by_target(cap, beginning.start.encoder, gap, rate))

    return make


def _mix(beginning: Beginning, factors: Factors) -> Made:
    start = beginning.start
    return MixedStep(start.model, start.encoder, factors), start.codes["groups"]
