"""How much each stage of each arm acted, and whether that matters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from fairclip.advice import Advice, advise
from fairclip.comparison._arms import Arm
from fairclip.comparison._findings import balances_labels, capped_arms
from fairclip.comparison._select import BASELINE


def advise_arms(traces: Mapping[str, pd.DataFrame], arms: Sequence[Arm]) -> dict[str, Advice]:
    """Return the advice on every arm that caps or clips, by name.

    None is on a cap that balances labels: its factors are never 1, whatever it does to groups.

    Args:
        traces: For some arms the steps of one training run.
        arms: Of the comparison.
    """
    capped = set(capped_arms(arms)) - {arm.name for arm in arms if balances_labels(arm)}
    found = {}
    for arm, trace in traces.items():
        if arm != BASELINE:
            advice = advise(trace)
            stages = advice.stages
            found[arm] = advice
            if arm not in capped:
                found[arm] = replace(advice, stages=stages[stages["stage"] != "cap"])
    return found


def advice_table(advice: Mapping[str, Advice]) -> pd.DataFrame:
    """Return one row for each arm, stage and scope; an empty table without an arm."""
    tables = [one.stages.assign(arm=arm) for arm, one in advice.items()]
    return pd.concat(tables).set_index("arm").reset_index() if tables else pd.DataFrame()


def advice_sentences(advice: Mapping[str, Advice]) -> list[str]:
    """Return which stages of which arms were active, then all that is to be said of the others."""
    if not advice:
        return []
    active, others = [], []
    for arm, one in advice.items():
        whole = one.stages[one.stages["scope"] == "all"].to_dict("records")
        rows = [row for row in whole if row["verdict"] == "active"]
        active += [f"{row['stage']} of {arm} ({row['acted']:.0%})" for row in rows]
        rest = one.stages[(one.stages["scope"] == "all") & (one.stages["verdict"] != "active")]
        others += [f"{arm}: {text}" for text in replace(one, stages=rest).sentences()]
    named = ", ".join(active) or "none"
    return [f"Stages that were active (share of the first seed's steps): {named}.", *others]
