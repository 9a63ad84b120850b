"""The forms of `NormCap`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from fairclip import FairClipper, NormCap
from fairclip.training import FairStep
from tests.benchmarks._idea_adam import by_adam
from tests.benchmarks._idea_head import of_head
from tests.benchmarks._idea_ratio import ratio_by_target
from tests.benchmarks._idea_reference import highest_loss
from tests.benchmarks._idea_rule import GAPS, RATIOS, Made, Make, Rule
from tests.benchmarks._idea_setting import Beginning
from tests.benchmarks._idea_share import by_share
from tests.benchmarks._idea_steps import Factors, MixedStep
from tests.benchmarks._idea_two_knobs import two_knobs

Within: TypeAlias = Literal["all", "label"]


def norm_rules() -> Iterator[Rule]:
    """Yield them."""
    bases: tuple[tuple[str, Within], ...] = (("fair_cap", "all"), ("fair_cap_label", "label"))
    for base, within in bases:
        for idea, what, make in (
            (
                "share of the update",
                "share",
                _mixed(within, lambda cap, b: by_share(cap, b.start.encoder)),
            ),
            ("scope: each layer", "layer", _plain(within, scope="layer")),
            (
                "scope: the head alone",
                "head",
                _mixed(within, lambda cap, b: of_head(cap, b.start.encoder, b.start.model)),
            ),
            (
                "Adam's contribution",
                "adam",
                _mixed(within, lambda cap, b: by_adam(cap, b.start.encoder, b.optimizer)),
            ),
            (
                "reference: smallest norm",
                "smallest norm",
                _plain(within, reference="smallest_norm"),
            ),
        ):
            yield Rule(f"{base}, {what}", make, RATIOS, idea, (base,))
    yield Rule(
        "fair_cap, highest loss",
        _mixed("all", lambda cap, b: highest_loss(cap, b.start.encoder)),
        RATIOS,
        "reference: highest loss",
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


def _plain(within: Within, **fields: Any) -> Make:
    """Return a cap with other fields."""

    def make(beginning: Beginning, ratio: float) -> Made:
        start = beginning.start
        cap = replace(beginning.run.trainer.settings.cap(ratio, within), **fields)
        return FairStep(FairClipper(start.model, cap, encoder=start.encoder)), start.codes["groups"]

    return make


def _mixed(within: Within, factors: Callable[[NormCap, Beginning], Factors]) -> Make:
    """Return other factors from the same cap."""

    def make(beginning: Beginning, ratio: float) -> Made:
        cap = beginning.run.trainer.settings.cap(ratio, within)
        return _mix(beginning, factors(cap, beginning))

    return make


def _two_knobs(fixed: float | None) -> Make:
    def make(beginning: Beginning, ratio: float) -> Made:
        cap = beginning.run.trainer.settings.cap
        inside = cap(ratio if fixed is None else fixed, "label")
        return _mix(beginning, two_knobs(inside, cap(ratio), beginning.start.encoder))

    return make


def _ratio_by_target(rate: float) -> Make:
    def make(beginning: Beginning, gap: float) -> Made:
        cap = beginning.run.trainer.settings.cap(1.0, "label")
        return _mix(beginning, ratio_by_target(cap, beginning.start.encoder, gap, rate))

    return make


def _mix(beginning: Beginning, factors: Factors) -> Made:
    start = beginning.start
    return MixedStep(start.model, start.encoder, factors), start.codes["groups"]
