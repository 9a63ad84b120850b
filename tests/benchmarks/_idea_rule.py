"""A rule that is measured: how it trains, at which strengths, against what."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fairclip.comparison._arms import TrainedArm, make_arm
from fairclip.training import Step
from tests.benchmarks._idea_setting import Beginning

RATIOS = (4.0, 2.0, 1.0, 0.5)
GAPS = (0.1, 0.05, 0.02, 0.0)
WORST_GAPS = (0.3, 0.2, 0.1, 0.05)

# A step, and the codes (n,) of the training rows that it wants.
Made: TypeAlias = tuple[Step, NDArray[np.int64]]
Make: TypeAlias = Callable[["Beginning", float], Made]


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
    make: Make
    strengths: tuple[float, ...]
    idea: str = ""
    against: tuple[str, ...] = ()
    at_base_rate: bool = False
    then_cut: str = ""


def arm_of(kind: str) -> Make:
    """Return how an arm of the product is trained, with the strength behind its @."""

    def make(beginning: Beginning, strength: float) -> Made:
        start, settings = beginning.start, beginning.run.trainer.settings
        name = "unclipped" if kind == "unclipped" else f"{kind}@{strength:g}"
        arm = make_arm(name, settings)
        assert isinstance(arm, TrainedArm)
        return arm.step(start), start.codes[arm.codes]

    return make
