"""One arm, chosen on the validation parts by what a user asks for in a line."""

import re
from dataclasses import dataclass
from typing import Self

import pandas as pd

BASELINE = "unclipped"
# Whether more of a metric is better.
_MORE_IS_BETTER = {
    "accuracy": True,
    "balanced_accuracy": True,
    "auc": True,
    "worst_group_accuracy": True,
    "worst_cell_accuracy": True,
    "equalized_odds_difference": False,
    "demographic_parity_difference": False,
}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_CONSTRAINT = re.compile(
    rf"(?P<metric>\w+)\s*(?P<sign>>=|<=)\s*"
    rf"(?:(?P<number>{_NUMBER})|{BASELINE}(?:\s*(?P<offset>[+-]\s*{_NUMBER}))?)"
)


@dataclass(frozen=True)
class Constraint:
    """A bound on one metric.

    Attributes:
        text: As the user wrote it.
        metric: Its name.
        at_least: Whether the bound is a lower one.
        bound: Dimensionless; with ``relative`` it is added to the baseline's value.
        relative: Whether it is.
    """

    text: str
    metric: str
    at_least: bool
    bound: float
    relative: bool

    def holds(self, means: pd.DataFrame) -> "pd.Series[bool]":
        """Return which arms keep to it; an arm that lacks the metric does not."""
        values = means[self.metric]
        margin = values - self.bound - (values[BASELINE] if self.relative else 0.0)
        margin = margin.round(12)  # a difference of decimals is off by the last bit
        return margin >= 0 if self.at_least else margin <= 0


@dataclass(frozen=True)
class Selection:
    """An objective and constraints.

    Attributes:
        objective: The metric whose best value is looked for.
        constraints: What an arm must keep to; none: any arm.
    """

    objective: str
    constraints: tuple[Constraint, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"objective, constraint, ..."``.

        Raises:
            ValueError: If it says something else; the message lists what there is.
        """
        objective, *others = (part.strip() for part in text.split(","))
        if objective not in _MORE_IS_BETTER:
            raise _refuse(f"the objective {objective!r}")
        return cls(objective, tuple(map(_parse_constraint, others)))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it names."""
        return (self.objective, *(constraint.metric for constraint in self.constraints))

    def choose(self, means: pd.DataFrame) -> str | None:
        """Return the best arm that keeps to all constraints, the first of equals; None: no arm.

        Args:
            means: One row for each arm, by name, and a column for each metric.
        """
        keeps = means[self.objective].notna()
        for constraint in self.constraints:
            keeps &= constraint.holds(means)
        values = means.loc[keeps, self.objective].round(12)
        if values.empty:
            return None
        return str(values.idxmax() if _MORE_IS_BETTER[self.objective] else values.idxmin())


def select_arm(runs: pd.DataFrame, expression: str) -> str | None:
    """Return the arm that is best on the validation parts, by the means over the seeds.

    Args:
        runs: As ``runs.csv`` of a finished comparison: the columns ``arm`` and ``part``, and those
            of the metrics.
        expression: As the setting ``select``: an objective, then constraints, such as
            ``"worst_cell_accuracy, accuracy >= unclipped - 0.02"``.

    Returns:
        Its name, the first of equals; None where no arm keeps to the constraints.

    Raises:
        ValueError: If the expression cannot be read, or the runs lack a column or the baseline.

    Example:
        >>> import pandas as pd
        >>> runs = pd.DataFrame(
        ...     {
        ...         "arm": ["unclipped", "fair_cap@2", "fair_cap@1"],
        ...         "part": "validation",
        ...         "accuracy": [0.90, 0.89, 0.80],
        ...         "worst_cell_accuracy": [0.5, 0.6, 0.7],
        ...     }
        ... )
        >>> select_arm(runs, "worst_cell_accuracy, accuracy >= unclipped - 0.02")
        'fair_cap@2'
    """
    selection = Selection.parse(expression)
    lacking = {"arm", "part", *selection.metrics} - set(runs.columns)
    if lacking:
        raise ValueError(f"`runs` must have the columns {', '.join(sorted(lacking))}.")
    validation = runs[runs["part"] == "validation"]
    if BASELINE not in set(validation["arm"]):
        raise ValueError(f"`runs` must have validation rows of the arm {BASELINE}.")
    means = validation.groupby("arm", sort=False)[list(dict.fromkeys(selection.metrics))].mean()
    return selection.choose(means)


def _parse_constraint(text: str) -> Constraint:
    found = _CONSTRAINT.fullmatch(text)
    if found is None or found["metric"] not in _MORE_IS_BETTER:
        raise _refuse(f"the constraint {text!r}")
    if found["number"] is not None and float(found["number"]) > 1:
        raise _refuse(f"the constraint {text!r}, whose bound is no share in [0, 1]")
    bound = found["number"] or "".join((found["offset"] or "0").split())
    return Constraint(
        text, found["metric"], found["sign"] == ">=", float(bound), found["number"] is None
    )


def _refuse(what: str) -> ValueError:
    return ValueError(
        f"`select` (--select) has {what}: name a metric, then perhaps constraints, separated by "
        f"commas: a metric, >= or <=, and a number, {BASELINE}, or {BASELINE} plus or minus a "
        f"number; such as 'worst_cell_accuracy, accuracy >= {BASELINE} - 0.02'. The metrics are "
        f"{', '.join(_MORE_IS_BETTER)}."
    )
