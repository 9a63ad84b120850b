"""How much each stage of each arm acted, and whether that matters."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fairclip.advice import advise
from fairclip.comparison._arms import BASELINE, Arm
from fairclip.comparison._findings import capped_arms


def advise_arms(traces: Mapping[str, pd.DataFrame], arms: Sequence[Arm]) -> pd.DataFrame:
    """Return the rows of `advise` for every arm that caps or clips, with a column ``arm``.

    Args:
        traces: For some arms the steps of one training run.
        arms: Of the comparison.
    """
    capped = capped_arms(arms)
    found = []
    for arm, trace in traces.items():
        if arm != BASELINE:
            stages = advise(trace).stages
            stages = stages if arm in capped else stages[stages["stage"] != "cap"]
            found.append(stages.assign(arm=arm))
    return pd.concat(found).set_index("arm").reset_index()


def verdicts(advice: pd.DataFrame) -> str:
    """Return which stages of which arms were active, a placebo or stalling, in a sentence."""
    whole = advice[advice["scope"] == "all"]
    parts = []
    for verdict in ("active", "placebo", "stalling"):
        rows = whole[whole["verdict"] == verdict].to_dict("records")
        named = [f"{row['stage']} of {row['arm']} ({row['acted']:.0%})" for row in rows]
        parts.append(f"{verdict}: {', '.join(named) or 'none'}")
    return f"How the stages acted (share of the steps, first seed): {'; '.join(parts)}."
