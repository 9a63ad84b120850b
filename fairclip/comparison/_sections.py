"""The parts of the report that hold figures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fairclip.advice import RULE
from fairclip.comparison._arms import Arm
from fairclip.comparison._findings import arms_told_groups, capped_arms
from fairclip.comparison._results import Results, format_change
from fairclip.comparison._select import BASELINE
from fairclip.comparison._settings import Settings
from fairclip.comparison._split import split
from fairclip.comparison._table import Table as Data
from fairclip.comparison._table import encode
from fairclip.groups import GroupEncoder
from fairclip.metrics import (
    Picture,
    Section,
    Table,
    plot_stages,
    plot_telemetry,
    plot_tradeoff,
    to_svg,
)

_SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "worst_cell_accuracy",
    "equalized_odds_difference",
    "demographic_parity_difference",
)

_INTERVALS = (
    "Figures are means over the seeds, changes are against unclipped and paired by seed, and ± is "
    "half a 95 % t interval with the correction of Nadeau and Bengio for overlapping splits. It "
    "covers the choice of split, initial weights and batches on this table; it covers neither "
    "another population nor the choice of the best of many arms."
)

_ONE_SEED = (
    "Figures are of one seed, changes are against unclipped; one seed has no interval: a change "
    "can be the luck of the split."
)


def tradeoff_section(results: Results, arms: Sequence[Arm]) -> Section:
    """Show every arm, in tables and against accuracy in pictures."""
    tradeoff = results.tradeoff
    blind = {arm.name for arm in arms if arm.group_blind}
    marks = dict.fromkeys(blind, " (group-blind)")
    marks |= dict.fromkeys(arms_told_groups(arms), " (told the groups)")
    levels = pd.concat(
        [
            tradeoff["arm"],
            *(tradeoff[f"{metric}_mean"].rename(_word(metric)) for metric in _SHOWN),
            tradeoff["selection_rate_mean"].rename("selection rate"),
            tradeoff["worst_cell"].rename("worst cell"),
            tradeoff["worst_cell_n"].rename("its n").round().astype(int),
            tradeoff["worst_cell_seeds"].rename("worst in seeds"),
            tradeoff["arm"].isin(blind).rename("group-blind"),
        ],
        axis=1,
    )
    candidates = tradeoff[tradeoff["arm"] != BASELINE]
    changes = pd.concat(
        [candidates["arm"], *(_changes(candidates, metric, _word(metric)) for metric in _SHOWN)],
        axis=1,
    ).set_index("arm")
    marked, runs = (
        frame.assign(arm=[arm + marks.get(arm, "") for arm in frame["arm"]])
        for frame in (tradeoff, results.runs[results.runs["part"] == "test"])
    )
    pictures = (
        Picture(
            to_svg(plot_tradeoff(marked, "accuracy", metric, runs=runs).figure),
            f"Accuracy and {_word(metric)} with 95 % intervals; pale points are single seeds.",
            _intervals(tradeoff, ("accuracy", metric)),
        )
        for metric in ("worst_cell_accuracy", "equalized_odds_difference")
    )
    return Section(
        "Trade-off",
        (
            _INTERVALS if tradeoff["accuracy_low"].notna().any() else _ONE_SEED,
            Table(
                levels.set_index("arm"),
                "Every arm on the test part. The worst cell is the one that is worst in most "
                "seeds; n is its mean number of rows.",
            ),
            Table(_named(((arm.name, arm.note) for arm in arms), "arm", "is"), "What each arm is."),
            Table(changes, f"Changes against {BASELINE}."),
            "A gap can close because fewer people are selected. Here every arm that has scores "
            "predicts 1 for as many rows as have the label 1, by its scores: what differs is whom "
            "it selects.",
            Table(_at_one_selection_rate(results.matched), "Arms at one selection rate."),
            *pictures,
        ),
    )


def _at_one_selection_rate(matched: pd.DataFrame) -> pd.DataFrame:
    matched = matched.dropna(subset="selection_rate_mean")  # of arms without scores
    columns: dict[str, Any] = {"selection rate": matched["selection_rate_mean"]}
    for metric in _SHOWN:
        columns[_word(metric)] = matched[f"{metric}_mean"]
        if metric in ("worst_cell_accuracy", "equalized_odds_difference"):
            changes = _changes(matched, metric, metric).where(matched["arm"] != BASELINE, "–")
            columns[f"{_word(metric)}: change"] = changes
    return pd.DataFrame({"arm": matched["arm"], **columns}).set_index("arm")


def _word(metric: str) -> str:
    return metric.upper() if metric in {"tpr", "fpr", "ece"} else metric.replace("_", " ")


def _changes(table: pd.DataFrame, metric: str, name: str) -> "pd.Series[str]":
    changes = [format_change(row, metric) for row in table.to_dict("records")]
    return pd.Series(changes, index=table.index, name=name)


def _intervals(tradeoff: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    parts = [f"{metric}_{part}" for metric in metrics for part in ("mean", "low", "high")]
    return tradeoff.set_index("arm")[parts]


def by_group_section(by_group: pd.DataFrame, arms: Sequence[Arm]) -> Section:
    """Show for each arm what every group gained and lost against the baseline."""
    before = by_group[by_group["arm"] == BASELINE].set_index("group")
    tables = []
    for arm in arms:
        if arm.name == BASELINE:
            continue
        after = by_group[by_group["arm"] == arm.name].set_index("group")
        columns: list[pd.Series] = [after["n"].round().astype(int)]
        for rate in ("tpr", "fpr", "accuracy", "ece"):
            columns += [
                before[f"{rate}_mean"].rename(f"{_word(rate)} {BASELINE}"),
                after[f"{rate}_mean"].rename(_word(rate)),
                _changes(after, rate, "change"),
            ]
        tables.append(Table(pd.concat(columns, axis=1), f"{arm.name} against {BASELINE}."))
    note = (
        "TPR is the share of class 1 that is predicted 1, FPR the share of class 0 that is; the "
        "equalized odds difference is the larger spread of the two over the groups. n is the mean "
        "number of rows of the test part. ECE is the expected calibration error: how far scores "
        "are from the shares of class 1, in the mean over ten bins; with few rows it is larger."
    )
    return Section("By group", (note, *tables))


def telemetry_section(
    results: Results,
    arms: Sequence[Arm],
    traces: Mapping[str, pd.DataFrame],
    advice: pd.DataFrame,
) -> Section:
    """Show how often the stages acted, on whom, and whether that matters."""
    acted = results.tradeoff.set_index("arm")[["cap_active", "clip_active"]].dropna(how="all")
    acted = acted.set_axis(["cap", "clip"], axis=1)
    groups = results.telemetry.rename(columns={"share": "share of the update"})
    pictures = [
        Picture(
            to_svg(plot_stages(acted).figure),
            "Share of the steps in which each stage acted; means over the seeds. Only these arms "
            "keep a trace.",
            acted,
        )
    ]
    for arm in capped_arms(arms):
        of_arm = groups[groups["arm"] == arm].drop(columns="arm").set_index("group")
        drawn = {"factor": "what each group's contribution was multiplied by"}
        if of_arm["norm"].notna().any():
            drawn = {"norm": "norm of each group's contribution before the cap", **drawn}
        pictures += [
            Picture(
                to_svg(plot_telemetry(traces[arm], quantity=quantity).figure),
                f"{arm}: {what}, first seed.",
                of_arm,
            )
            for quantity, what in drawn.items()
        ]
    tables = [
        Table(
            groups.set_index(["arm", "group"]),
            "Norm, factor and share: means over the steps in which the group was present. "
            "Capped and absent: shares of the steps. Means over the seeds.",
        )
    ]
    if len(advice):
        renamed = advice.rename(columns={"n_steps": "steps", "norm_before": "norm before"})
        tables.append(
            Table(
                renamed.replace({"verdict": {"": "–"}}).set_index(["arm", "stage", "scope"]),
                f"Advice on every stage, first seed. {RULE} Kept: the norm after over the norm "
                "before; cosine: between the gradient before and after; both medians.",
            )
        )
    return Section("Training", (*tables, *pictures))


def no_help_section(notes: pd.DataFrame) -> Section:
    """Show what to know about a capped arm before using it."""
    table = Table(notes.set_index("arm"), "What the test part says against each cap.")
    return Section("Where it does not help", (table,) if len(notes) else ("No cap has a note.",))


def data_section(data: Data, environment: Mapping[str, Any]) -> Section:
    """Show rows and base rates of each group in each part."""
    rows = split(data, seed=0)
    parts = pd.Series("training", index=data.sensitive.index)
    parts.iloc[rows.validation], parts.iloc[rows.test] = "validation", "test"
    encoder = GroupEncoder().fit(data.sensitive)
    codes = encode(encoder, data.sensitive, data.y)
    groups = pd.Series(np.array([*encoder.names_, "unknown"])[codes], name="group")
    labels = pd.Series(data.y).groupby([groups, parts])
    counts, base_rates = labels.size().unstack(fill_value=0), labels.mean().unstack()
    columns: dict[str, Any] = {}
    for part in ("training", "validation", "test"):
        columns |= {f"{part}: rows": counts[part], f"{part}: base rate": base_rates[part]}
    source = environment["data"]
    return Section(
        "Data",
        (
            f"{source['name']}: {source['rows']:,} rows. {source['origin']}",
            Table(
                pd.DataFrame(columns),
                "Rows and the share of class 1, by group and part; every seed draws other rows "
                "of the same numbers.",
            ),
        ),
    )


def settings_section(
    settings: Settings, environment: Mapping[str, Any], warnings: Sequence[str]
) -> Section:
    """Show what a rerun would need."""
    values = [line.split(" = ", 1) for line in settings.to_toml().split("\n")[:-1]]
    rest = {"sha256 of the data": environment["data"]["sha256"], **environment["versions"]}
    rest |= environment["rivals"]
    for name in ("seeds", "device", "threads", "platform", "command_line"):
        rest[name.replace("_", " ")] = str(environment[name])
    return Section(
        "Settings",
        (
            *(f"Training warned: {warning}" for warning in warnings),
            Table(_named(values, "setting"), "As in config.toml."),
            Table(_named(rest.items(), "part"), "From environment.json."),
        ),
    )


def _named(values: Iterable[Sequence[str]], what: str, value: str = "value") -> pd.DataFrame:
    return pd.DataFrame(values, columns=[what, value]).set_index(what)
