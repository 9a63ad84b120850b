"""The forms of `TargetCap`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from fairclip import TargetCap
from tests.benchmarks._idea_memory import from_step, leak, nothing
from tests.benchmarks._idea_rates import HeldBackStep, at_cut, hold_back, shrunk, soft
from tests.benchmarks._idea_rule import GAPS, WORST_GAPS, Made, Make, Rule, arm_of
from tests.benchmarks._idea_setting import Beginning
from tests.benchmarks._idea_steps import ObservedStep, Rates, hits

# Of factors proportional to the gaps.
_RATES = (4.0, 8.0, 16.0, 32.0)
_WORST_RATES = (1.0, 2.0, 4.0, 8.0)

_Build: TypeAlias = Callable[[TargetCap, Beginning], Made]


def target_rules() -> Iterator[Rule]:
    """Yield them."""
    for base, target, gaps, rates in (
        ("target_cap", "equalized_odds", GAPS, _RATES),
        ("target_cap_worst", "worst_cell", WORST_GAPS, _WORST_RATES),
    ):
        for idea, what, build, fields in _FORMS:
            # Where it has another rate, so has what it is held against.
            rate = what.partition(", ")[2]
            against = (base, f"{base}, {rate}") if rate.startswith("rate") else (base,)
            yield Rule(f"{base}, {what}", _of(target, build, fields), gaps, idea, against)
        for name, of_rows in (
            (f"{base}, proportional", hits),
            (f"{base}, soft, proportional", soft),
        ):
            make = _proportional(target, of_rows)
            yield Rule(name, make, rates, "memory of the factors", (base,))
    base = "target_cap, cut at base rate"
    yield Rule(base, arm_of("target_cap"), GAPS, at_base_rate=True)
    yield Rule(
        "target_cap, rates at base rate",
        _of("equalized_odds", _at_base_rate, {}),
        GAPS,
        "rates at the user's threshold",
        (base,),
        at_base_rate=True,
    )


def _of(target: str, build: _Build, fields: Mapping[str, float]) -> Make:
    def make(beginning: Beginning, gap: float) -> Made:
        cap = TargetCap(target, gap)
        return build(replace(cap, **fields), beginning)  # type: ignore[arg-type]

    return make


def _proportional(target: str, of_rows: Rates) -> Make:
    def make(beginning: Beginning, rate: float) -> Made:
        start = beginning.start
        cap = TargetCap(target, gap=0.0, rate=rate)
        return ObservedStep(cap, start.encoder, of_rows, keep=nothing), start.codes["groups"]

    return make


def _plain(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    return ObservedStep(cap, start.encoder), start.codes["groups"]


def _by_epoch(cap: TargetCap, beginning: Beginning) -> Made:
    return _plain(replace(cap, rate=30 / beginning.run.steps_per_epoch), beginning)


def _soft(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    return ObservedStep(cap, start.encoder, soft), start.codes["groups"]


def _at_base_rate(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    rates = at_cut(float(beginning.run.train_targets.mean()))
    return ObservedStep(cap, start.encoder, rates), start.codes["groups"]


def _shrunk(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    adjust = shrunk(start.encoder, rows_of_label=100)
    return ObservedStep(cap, start.encoder, adjust=adjust), start.codes["groups"]


def _leak(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    return ObservedStep(cap, start.encoder, keep=leak(0.02)), start.codes["groups"]


def _late(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    keep = from_step(beginning.run.steps_per_epoch)
    return ObservedStep(cap, start.encoder, keep=keep), start.codes["groups"]


def _held_back(cap: TargetCap, beginning: Beginning) -> Made:
    start = beginning.start
    codes = hold_back(start.codes["groups"], len(start.encoder.names_), start.seed)
    return HeldBackStep(cap, start.encoder), codes


_FORMS: tuple[tuple[str, str, _Build, Mapping[str, float]], ...] = (
    ("rate and smoothing", "rate 0.3", _plain, {"rate": 0.3}),
    ("rate and smoothing", "rate 1", _plain, {"rate": 1}),
    ("rate and smoothing", "rate 0.3, smoothing 0.9", _plain, {"rate": 0.3, "smoothing": 0.9}),
    ("rate and smoothing", "rate 30 / steps", _by_epoch, {}),
    ("soft rates", "soft", _soft, {}),
    ("soft rates", "soft, rate 0.3", _soft, {"rate": 0.3}),
    ("soft rates", "soft, rate 1", _soft, {"rate": 1}),
    ("shrunk rates", "shrunk by 100 rows", _shrunk, {}),
    ("shrunk rates", "shrunk by 100 rows, rate 1", _shrunk, {"rate": 1}),
    ("memory of the factors", "leak 0.02", _leak, {}),
    ("memory of the factors", "leak 0.02, rate 0.3", _leak, {"rate": 0.3}),
    ("memory of the factors", "from epoch 2", _late, {}),
    ("memory of the factors", "from epoch 2, rate 0.3", _late, {"rate": 0.3}),
    ("held-back rates", "held back", _held_back, {}),
    ("held-back rates", "held back, rate 1", _held_back, {"rate": 1}),
)
