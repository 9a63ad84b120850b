"""The pages of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fairclip.comparison._arms import BASELINE, Arm
from fairclip.comparison._findings import capped_arms, headlines, no_help
from fairclip.comparison._results import Results
from fairclip.comparison._settings import Settings
from fairclip.comparison._split import split
from fairclip.comparison._table import Table as Data
from fairclip.groups import GroupEncoder
from fairclip.metrics import Picture, Report, Section, Table, plot_telemetry, plot_tradeoff, to_svg

_SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "worst_cell_accuracy",
    "equalized_odds_difference",
    "demographic_parity_difference",
)

_INTERVALS = (
    "Figures are means over the seeds, changes are paired by seed, and ± is half a 95 % t interval "
    "with the correction of Nadeau and Bengio for overlapping splits. It covers the choice of "
    "split, initial weights and batches on this table; it covers neither another population nor "
    "the choice of the best of many arms."
)

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
    "The minority by rows need not be the group that is served worse: see the base rates and rates "
    "by group.",
    "The labels are taken as they are. Where they record past decisions, every rate here is "
    "agreement with those decisions.",
    "Arms were picked for the sentences at the top by their figures on the test part, which "
    "flatters the picked ones.",
)


def make_report(
    settings: Settings,
    data: Data,
    arms: Sequence[Arm],
    environment: Mapping[str, Any],
    results: Results,
    traces: Mapping[str, pd.DataFrame],
    warnings: Sequence[str],
) -> Report:
    """Return the report of a finished comparison.

    Args:
        settings: Of the run.
        data: Of the run.
        arms: In the order of the tables.
        environment: As in ``environment.json``.
        results: The figures.
        traces: For some arms the steps of one training run.
        warnings: What training had to say.
    """
    found = headlines(results, arms)
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    return Report(
        title=f"Trade-offs on {environment['data']['name']}",
        lead=f"{len(arms)} ways to train one network for `{settings.target}`, {seeds} each, by "
        f"{' × '.join(settings.sensitive)}. y = 1 means {data.classes[1]}, y = 0 "
        f"{data.classes[0]}; favourable for a person is {data.favourable}.",
        sections=(
            Section("In short", tuple(found)),
            _tradeoff(results.tradeoff, arms),
            _by_group(results.by_group, arms),
            _telemetry(results, arms, traces),
            Section(
                "Where it does not help",
                (Table(no_help(results, arms, float(data.y.mean())), "Computed from this run."),),
            ),
            Section("Limits", _LIMITS),
            _data(data, environment),
            _settings(settings, environment, warnings),
        ),
        data={
            "settings": asdict(settings),
            "environment": environment,
            "findings": found,
            "warnings": list(warnings),
            "tradeoff": results.tradeoff.to_dict("records"),
            "by_group": results.by_group.to_dict("records"),
            "telemetry": results.telemetry.to_dict("records"),
        },
    )


def _changes(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean of a metric, its change and half the interval of the change."""
    half = (table[f"{metric}_change_high"] - table[f"{metric}_change_low"]) / 2
    columns = [table[f"{metric}_mean"], table[f"{metric}_change"], half]
    return pd.concat(columns, axis=1).set_axis([_word(metric), "change", "±"], axis=1)


def _word(metric: str) -> str:
    return metric.upper() if metric in {"tpr", "fpr"} else metric.replace("_", " ")


def _tradeoff(tradeoff: pd.DataFrame, arms: Sequence[Arm]) -> Section:
    blind = {arm.name for arm in arms if arm.group_blind}
    shown = pd.concat(
        [
            tradeoff["arm"],
            tradeoff["arm"].isin(blind).rename("group-blind"),
            *(_changes(tradeoff, metric) for metric in _SHOWN),
            tradeoff[["worst_cell", "selection_rate_mean"]].set_axis(
                ["worst cell", "selection rate"], axis=1
            ),
        ],
        axis=1,
    )
    marked = tradeoff.assign(
        arm=[f"{arm} (group-blind)" if arm in blind else arm for arm in tradeoff["arm"]]
    )
    pictures = (
        Picture(
            to_svg(plot_tradeoff(marked, "accuracy", metric).figure),
            f"Accuracy and {_word(metric)} with 95 % intervals.",
            _levels(tradeoff, ("accuracy", metric)),
        )
        for metric in ("worst_cell_accuracy", "equalized_odds_difference")
    )
    table = Table(shown, "Every arm on the test part; changes are against unclipped.")
    return Section("Trade-off", (_INTERVALS, table, *pictures))


def _levels(tradeoff: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    parts = [f"{metric}_{part}" for metric in metrics for part in ("mean", "low", "high")]
    return tradeoff[["arm", *parts]]


def _by_group(by_group: pd.DataFrame, arms: Sequence[Arm]) -> Section:
    before = by_group[by_group["arm"] == BASELINE].set_index("group")
    tables = []
    for arm in arms:
        if arm.name == BASELINE:
            continue
        after = by_group[by_group["arm"] == arm.name].set_index("group")
        columns: list[pd.Series | pd.DataFrame] = [after["n"].round().astype(int)]
        for rate in ("tpr", "fpr", "accuracy"):
            baseline = before[f"{rate}_mean"].rename(f"{_word(rate)} {BASELINE}")
            columns += [baseline, _changes(after, rate)]
        shown = pd.concat(columns, axis=1)
        tables.append(Table(shown, f"{arm.name} against {BASELINE}, by group."))
    note = (
        "TPR is the share of class 1 that is predicted 1, FPR the share of class 0 that is; the "
        "equalized odds difference is the larger spread of the two over the groups. n is the mean "
        "number of rows of the test part."
    )
    return Section("By group", (note, *tables))


def _telemetry(
    results: Results, arms: Sequence[Arm], traces: Mapping[str, pd.DataFrame]
) -> Section:
    acted = results.tradeoff[["arm", "cap_active", "clip_active"]].dropna(thresh=2)
    groups = results.telemetry.set_axis(
        ["arm", "group", "norm", "factor", "share of the update", "steps without the group"], axis=1
    )
    pictures = (
        Picture(
            to_svg(plot_telemetry(traces[arm]).figure),
            f"{arm}: what each group's contribution was multiplied by, first seed.",
            groups[groups["arm"] == arm].drop(columns="arm"),
        )
        for arm in capped_arms(arms)
    )
    return Section(
        "Training",
        (
            Table(
                acted.set_axis(["arm", "steps in which a cap acted", "a clip acted"], axis=1),
                "Shares of the steps; mean over the seeds. Only these arms keep a trace.",
            ),
            Table(groups, "Means over the steps in which the group was present, and the seeds."),
            *pictures,
        ),
    )


def _data(data: Data, environment: Mapping[str, Any]) -> Section:
    rows = split(data, seed=0)
    parts = pd.Series("training", index=data.sensitive.index)
    parts.iloc[rows.validation], parts.iloc[rows.test] = "validation", "test"
    known = data.sensitive.dropna()
    encoder = GroupEncoder().fit(known)
    groups = pd.Series("unknown", index=parts.index, name="group")
    groups.iloc[known.index] = pd.Series(encoder.names_).iloc[encoder.transform(known)]
    labels = pd.Series(data.y).groupby([groups, parts])
    counts, base_rates = labels.size().unstack(fill_value=0), labels.mean().unstack()
    columns: dict[str, Any] = {}
    for part in ("training", "validation", "test"):
        columns |= {f"{part}: rows": counts[part], f"{part}: base rate": base_rates[part]}
    source = environment["data"]
    return Section(
        "Data",
        (
            f"{source['name']}, {source['rows']:,} rows, sha256 {source['sha256']}. "
            f"{source['origin']}",
            Table(
                pd.DataFrame(columns),
                "Rows and the share of class 1, by group and part; every seed draws other rows "
                "of the same numbers.",
            ),
        ),
    )


def _settings(
    settings: Settings, environment: Mapping[str, Any], warnings: Sequence[str]
) -> Section:
    values = [(name, str(value)) for name, value in asdict(settings).items() if value is not None]
    versions = list(environment["versions"].items())
    rest = [
        (name.replace("_", " "), str(environment[name]))
        for name in ("seeds", "device", "threads", "platform", "command_line")
    ]
    return Section(
        "Settings",
        (
            *(f"Training warned: {warning}" for warning in warnings),
            Table(pd.DataFrame(values, columns=["setting", "value"]), "As in config.toml."),
            Table(pd.DataFrame(versions + rest, columns=["", "value"]), "As in environment.json."),
        ),
    )
