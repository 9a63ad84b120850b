"""The pages of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fairclip.comparison._advice import advice_sentences, advice_table, advise_arms
from fairclip.comparison._arms import Arm
from fairclip.comparison._findings import headlines, no_help, selected
from fairclip.comparison._results import Results
from fairclip.comparison._sections import (
    by_group_section,
    data_section,
    no_help_section,
    settings_section,
    telemetry_section,
    tradeoff_section,
)
from fairclip.comparison._settings import Settings
from fairclip.comparison._table import Table as Data
from fairclip.metrics import Report, Section

_LIMITS = (
    "A bound on gradients is no guarantee about outcomes: read the tables above, not the settings.",
    "A worst cell is the least recall of any (group, label) cell. It is a minimum, so it looks "
    "worse the more cells there are and the fewer rows they have.",
    "Most of what a cap over all cells gains in the worst cell is the imbalance of the labels. "
    "Label reweighting and another threshold, which know no group, often gain as much; a gain for "
    "a group is what stands above the best of these.",
    "A constant prediction has equalized odds: never read the difference without the balanced "
    "accuracy, and the TPR and FPR of each group.",
    "With the sensitive features alone as groups a cap does next to nothing on tables: near a "
    "minimum the groups' gradients are of equal norm.",
    "What a cap does depends on the batch size: with few rows of a group in a batch, the length of "
    "its gradient is mostly sampling noise.",
    "The minority by rows need not be the group that is served worse: see the base rates and rates "
    "by group.",
    "The labels are taken as they are. Where they record past decisions, every rate here is "
    "agreement with those decisions.",
    "Validation rows of one seed are test rows of another, so the choice of the arms that the "
    "sentences at the top name is not free of the rows on which their changes are measured.",
    "The cut of the threshold arm is chosen on the validation part, so its figures there, by which "
    "the sentences at the top choose, flatter it; its figures on the test part do not.",
)


def make_report(
    settings: Settings,
    data: Data,
    arms: Sequence[Arm],
    environment: Mapping[str, Any],
    results: Results,
    traces: Mapping[str, pd.DataFrame],
) -> Report:
    """Return the report of a finished comparison.

    Args:
        settings: Of the run.
        data: Of the run.
        arms: In the order of the tables.
        environment: As in ``environment.json``.
        results: The figures.
        traces: For some arms the steps of one training run.
    """
    advice = advise_arms(traces, arms)
    stages = advice_table(advice)
    found = [*headlines(results, arms), *advice_sentences(advice)]
    chosen = None
    if settings.select:
        chosen, sentence = selected(results, arms, settings.select, float(data.y.mean()))
        found.insert(0, sentence)
    favourable = data.classes.index(data.favourable)
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    return Report(
        title=f"Trade-offs on {environment['data']['name']}",
        lead=f"{len(arms)} ways to train one network, {seeds} each; groups by "
        f"{' × '.join(settings.sensitive)}. y=1 is {settings.target}={data.classes[1]}, y=0 is "
        f"{settings.target}={data.classes[0]}; favourable for a person is y={favourable}.",
        sections=(
            Section("In short", tuple(found)),
            tradeoff_section(results, arms),
            by_group_section(results.by_group, arms),
            telemetry_section(results, arms, traces, stages),
            no_help_section(no_help(results, arms, float(data.y.mean()))),
            Section("Limits", _LIMITS),
            data_section(data, environment),
            settings_section(settings, environment, results.warnings),
        ),
        data={
            "settings": asdict(settings),
            "environment": environment,
            "findings": found,
            "selected": chosen,
            "warnings": list(results.warnings),
            "tradeoff": results.tradeoff.to_dict("records"),
            "validation": results.validation.to_dict("records"),
            "matched": results.matched.to_dict("records"),
            "by_group": results.by_group.to_dict("records"),
            "telemetry": results.telemetry.to_dict("records"),
            "advice": stages.to_dict("records"),
        },
    )
