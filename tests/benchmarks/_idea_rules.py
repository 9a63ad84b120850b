"""All rules: what there is, and the forms of the ideas."""

from collections.abc import Iterator

from tests.benchmarks._idea_norm_rules import norm_rules
from tests.benchmarks._idea_rule import GAPS, RATIOS, WORST_GAPS, Rule, arm_of
from tests.benchmarks._idea_target_rules import target_rules

_POWERS = (0.25, 0.5, 0.75, 1.0)

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


def rules(*, large: bool = False) -> tuple[Rule, ...]:
    """Return all that is trained, on a large table; what there is comes first."""
    found = (*_existing(), *target_rules(), *norm_rules())
    return tuple(rule for rule in found if not (large and rule.name in SMALL_ONLY))


def _existing() -> Iterator[Rule]:
    yield Rule("unclipped", arm_of("unclipped"), (0.0,))
    for name, strengths in (
        ("fair_cap", RATIOS),
        ("fair_cap_label", RATIOS),
        ("target_cap", GAPS),
        ("target_cap_worst", WORST_GAPS),
    ):
        yield Rule(name, arm_of(name), strengths, then_cut=f"{name} + threshold")
    for name in ("reweight", "reweight_within"):
        yield Rule(name, arm_of(name), _POWERS, then_cut=f"{name} + threshold")
    yield Rule("label_reweight", arm_of("label_reweight"), _POWERS)
    yield Rule("torchjd:UPGrad", arm_of("torchjd:UPGrad"), (0.0,))
