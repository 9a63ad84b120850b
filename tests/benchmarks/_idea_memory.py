"""What a target's factors remember: nothing, less and less, or nothing of the first epoch.

`TargetCap` adds up gaps. Those of the first steps, before anything is learnt, are wide and push the
factors to the floor, and they come back at no more than rate times the gap that is let be.
"""

from tests.benchmarks._idea_steps import Keep


def nothing(_: int) -> float:
    """Make the logarithms proportional to the gaps, with the rate as the factor."""
    return 0.0


def leak(share: float) -> Keep:
    """Lose a share of the logarithms in each step."""
    return lambda step: 1 - share


def from_step(first: float) -> Keep:
    """Begin to add up at this step; before, the factors are those of a single one."""
    return lambda step: float(step >= first)
