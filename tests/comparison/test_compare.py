"""Whole comparisons on a small table."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fairclip
from fairclip.comparison import Comparison, RunError, Settings, prepare
from fairclip.comparison._advice import advice_sentences, advise_arms
from fairclip.comparison._arms import make_arms
from fairclip.comparison._results import METRICS
from tests.comparison._inputs import TINY, loans

ARMS = [
    "unclipped",
    "clip_norm",
    "fair_cap@2",
    "fair_cap@1",
    "fair_cap_label@2",
    "fair_cap_label@1",
    "reweight@0.5",
    "label_reweight@0.5",
    "threshold",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("runs") / "x"
    return fairclip.compare(loans(), out=out, jobs=1, **TINY)


def folder(result: Comparison) -> Path:
    assert result.folder is not None
    return result.folder


def test_the_folder_holds_what_it_should(run: Comparison) -> None:
    assert sorted(path.name for path in folder(run).iterdir()) == [
        "by_group.csv",
        "config.toml",
        "environment.json",
        "predictions",
        "report.html",
        "report.json",
        "report.md",
        "runs.csv",
        "runs_by_group.csv",
        "tasks",
        "trace.csv",
        "tradeoff.csv",
    ]
    assert list(folder(run).parent.iterdir()) == [folder(run)]
    assert len(list((folder(run) / "predictions").iterdir())) == 2 * len(ARMS)


def test_tradeoff_has_its_columns(run: Comparison) -> None:
    table = pd.read_csv(folder(run) / "tradeoff.csv")
    parts = ("mean", "low", "high", "change", "change_low", "change_high")
    assert list(table) == [
        "arm",
        *(f"{metric}_{part}" for metric in METRICS for part in parts),
        "worst_cell",
        "worst_cell_n",
        "worst_cell_seeds",
        "selection_rate_mean",
        "cap_active",
        "clip_active",
    ]
    assert table["arm"].tolist() == ARMS
    assert (table.filter(like="change").iloc[0] == 0).all()
    assert table.set_index("arm").loc["unclipped", "cap_active"] == 0


def test_figures_are_those_of_the_predictions(run: Comparison) -> None:
    for arm in ("unclipped", "fair_cap@2", "threshold"):
        files = [folder(run) / "predictions" / f"{arm}__seed{seed}.csv.gz" for seed in (0, 1)]
        accuracies = [(rows["y_true"] == rows["y_pred"]).mean() for rows in map(pd.read_csv, files)]
        mean = run.tradeoff.set_index("arm").loc[arm, "accuracy_mean"]
        assert mean == pytest.approx(np.mean(accuracies))


def test_matched_figures_select_as_many_rows_as_have_the_label(run: Comparison) -> None:
    matched = {row["arm"]: row for row in run.report.data["matched"]}
    found = []
    for seed in range(2):
        rows = pd.read_csv(folder(run) / "predictions" / f"fair_cap@1__seed{seed}.csv.gz")
        best = rows.nlargest(int(rows["y_true"].sum()), "y_score", keep="all").index
        found.append((rows.index.isin(best) == rows["y_true"]).mean())
    assert matched["fair_cap@1"]["accuracy_mean"] == pytest.approx(np.mean(found))
    # The threshold arm has the baseline's scores, so nothing of it is left.
    assert {**matched["threshold"], "arm": ""} == {**matched["unclipped"], "arm": ""}


def test_an_audit_reads_the_predictions(run: Comparison) -> None:
    rows = fairclip.metrics.read_predictions(
        folder(run) / "predictions" / "unclipped__seed0.csv.gz"
    )
    found = fairclip.metrics.audit(
        rows["y_true"],
        rows["y_pred"],
        sensitive_features=rows[["region"]],
        y_score=rows["y_score"],
        n_boot=10,
    )
    assert set(found.by_group.index) == {"north", "south"}


def test_arms_of_a_seed_share_the_split_and_the_threshold_arm_the_scores(run: Comparison) -> None:
    predictions = folder(run) / "predictions"
    first, cap, threshold = (
        pd.read_csv(predictions / f"{arm}__seed0.csv.gz")
        for arm in ("unclipped", "fair_cap@1", "threshold")
    )
    pd.testing.assert_frame_equal(first[["y_true", "region"]], cap[["y_true", "region"]])
    assert first["y_score"].equals(threshold["y_score"])
    assert not first["y_score"].equals(cap["y_score"])


def test_group_blind_training_starts_as_the_baseline_does(run: Comparison) -> None:
    steps = run.trace.groupby("arm").first()
    norms = steps.filter(regex=r"^norm\[").loc[["unclipped", "fair_cap@1"]]
    assert norms.nunique().eq(1).all()
    unclipped = steps.loc[["unclipped"]]
    assert unclipped["norm_capped"].equals(unclipped["norm_uncapped"])


def test_the_clip_sits_at_the_median_norm_of_the_baseline(run: Comparison) -> None:
    unclipped, clipped = (run.trace[run.trace["arm"] == arm] for arm in ("unclipped", "clip_norm"))
    median = unclipped["norm_uncapped"].median()
    assert clipped["threshold[Norm]"].unique() == pytest.approx([median])


def test_each_arm_that_caps_or_clips_has_advice(run: Comparison) -> None:
    report = json.loads((folder(run) / "report.json").read_text())
    advice = pd.DataFrame(report["advice"])
    whole = advice[advice["scope"] == "all"].set_index("arm")
    assert set(whole.index) == set(run.trace["arm"]) - {"unclipped"}
    assert whole.loc["clip_norm", "stage"] == "Norm"
    trace = run.trace[run.trace["arm"] == "clip_norm"]
    acted = trace["norm_after[Norm]"] < 0.999999 * trace["norm_before[Norm]"]
    assert whole.loc["clip_norm", "acted"] == acted.mean()
    assert any("first seed's steps): Norm of clip_norm" in s for s in report["findings"])
    assert "Advice on every stage" in (folder(run) / "report.html").read_text()


def test_advice_says_what_to_do_about_a_stage_that_is_not_active_and_a_step_not_finite() -> None:
    def steps(norm: float, after: float, n_bad: int = 0) -> pd.DataFrame:
        trace = pd.DataFrame({"step": range(40), "share_clipped[Norm]": 0.0})
        trace["nonfinite"], trace["first_nonfinite"] = trace["step"] < n_bad, "0.weight"
        numbers = {"norm_before": norm, "norm_after": after, "threshold": 1.0, "cosine": 1.0}
        return trace.assign(**{f"{name}[Norm]": number for name, number in numbers.items()})

    traces = {"clip_norm": steps(0.5, 0.5), "fair_cap@2": steps(100.0, 1.0, n_bad=2)}
    advice = advise_arms(traces, make_arms(Settings(quick=True)))
    active, placebo, stalling, nonfinite = advice_sentences(advice)
    assert active == "Stages that were active (share of the first seed's steps): none."
    assert placebo.startswith("clip_norm: Norm: placebo; it acted in 0.0% of the steps.")
    assert "0.5 would act in one step of ten" in placebo
    assert stalling.startswith("fair_cap@2: Norm: stalling")
    assert "step 0, its gradient in 0.weight" in nonfinite


def test_what_a_report_tells_of_a_weight_of_labels_and_of_unmeasured_norms(tmp_path: Path) -> None:
    arms = ["fair_cap_label@2+balance1+clip", "target_cap@0", "fair_cap_label@2+balance1"]
    few = TINY | {"seeds": 1, "arms": arms}
    data = fairclip.compare(loans(), out=tmp_path / "x", jobs=1, **few).report.data
    stages = {row["arm"]: row["stage"] for row in data["advice"]}
    assert stages == {arms[0]: "Norm", arms[1]: "cap"}
    page = (tmp_path / "x" / "report.html").read_text()
    assert "target_cap@0: what each group" in page
    assert "target_cap@0: norm of each" not in page
    assert f"{arms[0]}: norm of each" in page


def test_validation_figures_are_of_other_rows_and_in_the_json_alone(run: Comparison) -> None:
    report = json.loads((folder(run) / "report.json").read_text())
    validation = pd.DataFrame(report["validation"]).set_index("arm")
    assert list(validation) == [f"{metric}_mean" for metric in METRICS]
    assert validation.index.tolist() == ARMS
    test = run.tradeoff.set_index("arm")[list(validation)]
    assert ((validation - test).abs() > 1e-6).any(axis=1).all()


def test_environment_and_settings_are_on_record(run: Comparison) -> None:
    environment = json.loads((folder(run) / "environment.json").read_text())
    assert environment["seeds"] == [0, 1]
    assert len(environment["data"]["sha256"]) == 64
    assert Settings.read(folder(run) / "config.toml").epochs == 2
    report = json.loads((folder(run) / "report.json").read_text())
    assert [row["arm"] for row in report["tradeoff"]] == ARMS


def test_a_rerun_gives_the_same_bytes(run: Comparison, tmp_path: Path) -> None:
    again = fairclip.compare(loans(), out=tmp_path / "y", jobs=2, **TINY)
    predictions = "predictions/fair_cap@1__seed1.csv.gz"
    for name in ("tradeoff.csv", "by_group.csv", "trace.csv", predictions):
        assert (folder(again) / name).read_bytes() == (folder(run) / name).read_bytes(), name


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = fairclip.compare(loans(), jobs=1, **TINY | {"seeds": 1, "epochs": 1})
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []
    assert len(result.tradeoff) == len(ARMS)


def test_all_arms_and_groups_without_labels(tmp_path: Path) -> None:
    values = {"quick": False, "max_ratio": 2, "seeds": 1, "epochs": 1, "groups": "sensitive"}
    result = fairclip.compare(loans(), out=tmp_path / "x", jobs=1, **TINY | values)
    assert result.tradeoff["arm"].tolist() == [
        "unclipped",
        "clip_norm",
        "fair_cap@2",
        "fair_cap_step@2",
        "fair_cap@2+clip",
        "reweight@0.5",
        "reweight@1",
        "group_dro",
        "label_reweight@0.5",
        "label_reweight@1",
        "threshold",
    ]
    assert "n[region=north]" in result.trace


def test_names_from_the_file_are_harmless(tmp_path: Path) -> None:
    frame = loans()
    frame["region"] = frame["region"].map({"north": "<script>alert(1)</script>", "south": "=1+2"})
    values = TINY | {"seeds": 1, "epochs": 1}
    result = fairclip.compare(frame, out=tmp_path / "x", jobs=1, **values)
    assert "<script>alert" not in (folder(result) / "report.html").read_text()
    predictions = pd.read_csv(folder(result) / "predictions" / "unclipped__seed0.csv.gz")
    assert set(predictions["region"]) == {"<script>alert(1)</script>", "'=1+2"}
    again = fairclip.metrics.read_predictions(
        folder(result) / "predictions" / "unclipped__seed0.csv.gz"
    )
    assert set(again["region"]) == {"<script>alert(1)</script>", "=1+2"}
    for path in folder(result).rglob("*.csv*"):
        cells = pd.read_csv(path, dtype=str).select_dtypes(exclude="number").fillna("")
        words = {word for column in cells for word in [str(column), *cells[column].unique()]}
        risky = [word for word in words if word.startswith(("=", "+", "-", "@"))]
        assert all(re.fullmatch(r"-[\d.e-]+", word) for word in risky), path


@pytest.mark.slow
def test_a_killed_run_goes_on(run: Comparison, tmp_path: Path) -> None:
    data, out = tmp_path / "loans.csv", tmp_path / "run"
    loans().to_csv(data, index=False)
    flags = [f"--{name}={value}" for name, value in TINY.items() if name != "quick"]
    flags += ["--quick", "--jobs=1", f"--out={out}"]
    command = [sys.executable, "-m", "fairclip", "compare", str(data), *flags]
    tasks = out.with_name("run.partial") / "tasks"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list(tasks.glob("*.json"))) < 4:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in tasks.glob("*.json")}
    predictions = out.with_name("run.partial") / "predictions"
    written = {
        path.name: path.stat().st_mtime_ns
        for path in predictions.glob("*.csv.gz")
        if (tasks / path.name.replace("csv.gz", "json")) in done
    }
    assert not out.exists()

    with pytest.raises(ValueError, match="`epochs` was 2, now 3"):
        fairclip.compare(data, out=out, resume=True, **TINY | {"epochs": 3})
    (predictions / ".half.csv.gz.1").touch()
    fairclip.compare(data, out=out, resume=True, jobs=1, **TINY)
    assert len(list((out / "predictions").iterdir())) == 2 * len(ARMS)
    for name, when in written.items():
        assert (out / "predictions" / name).stat().st_mtime_ns == when
    assert (out / "tradeoff.csv").read_bytes() == (folder(run) / "tradeoff.csv").read_bytes()


def test_folders_that_may_not_be_touched(tmp_path: Path) -> None:
    chosen = Settings.of(TINY)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("irreplaceable")
    for name in ("foreign", "other"):
        if name == "other":
            foreign.rename(tmp_path / "other.partial")
        with pytest.raises(ValueError, match="is not a run"):
            prepare(chosen, loans(), out=tmp_path / name, overwrite=True)
    assert (tmp_path / "other.partial" / "thesis.txt").read_text() == "irreplaceable"
    assert len(list(tmp_path.iterdir())) == 1

    prepare(chosen, loans(), out=tmp_path / "x")
    with pytest.raises(ValueError, match="is an unfinished run"):
        prepare(chosen, loans(), out=tmp_path / "x")
    with pytest.raises(ValueError, match="the data are others"):
        prepare(chosen, loans(700), out=tmp_path / "x", resume=True)
    prepare(chosen, loans(700), out=tmp_path / "x", overwrite=True)


def test_a_run_does_not_go_on_with_other_versions_of_the_rivals(tmp_path: Path) -> None:
    chosen = Settings.of(TINY)
    prepare(chosen, loans(), out=tmp_path / "x")
    path = tmp_path / "x.partial" / "environment.json"
    environment = json.loads(path.read_text())

    def change(**changes: Any) -> None:
        path.write_text(json.dumps(environment | changes))

    change(rivals=environment["rivals"] | {"fairret": "0.0.1"})
    with pytest.raises(ValueError, match=r"fairret was 0\.0\.1, now "):
        prepare(chosen, loans(), out=tmp_path / "x", resume=True)
    change(rivals=dict.fromkeys(environment["rivals"], "not installed"))
    prepare(chosen, loans(), out=tmp_path / "x", resume=True)
    change(rivals=None)
    with pytest.raises(ValueError, match="is not a run"):
        prepare(chosen, loans(), out=tmp_path / "x", resume=True)


def test_a_finished_run_stays_until_the_next_one_is_finished(
    run: Comparison, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(folder(run), tmp_path / "x"))
    with pytest.raises(ValueError, match="is a finished run"):
        prepare(Settings.of(TINY), loans(), out=out)
    plan = prepare(Settings.of(TINY | {"seeds": 1}), loans(), out=out, overwrite=True)
    assert Settings.read(out / "config.toml").seeds == 2
    plan.run(jobs=1)
    assert Settings.read(out / "config.toml").seeds == 1
    assert list(tmp_path.iterdir()) == [out]


def test_the_worst_cell_comes_with_its_name_and_rows(run: Comparison) -> None:
    row = run.tradeoff.iloc[0]
    worst = []
    for seed in (0, 1):
        rows = pd.read_csv(folder(run) / "predictions" / f"unclipped__seed{seed}.csv.gz")
        right = (rows["y_true"] == rows["y_pred"]).groupby([rows["region"], rows["y_true"]])
        cells = pd.DataFrame({"share": right.mean(), "n": right.size()}).reset_index()
        least = cells.sort_values("share").to_dict("records")[0]
        worst.append((f"region={least['region']}, y={least['y_true']}", least["n"]))
    sizes = [n for name, n in worst if name == row["worst_cell"]]
    assert row["worst_cell_seeds"] == len(sizes) > 0
    assert row["worst_cell_n"] == np.mean(sizes)
    levels = next(t.frame for t in run.report.tables() if t.caption.startswith("Every arm"))
    shown = levels.loc["unclipped", ["worst cell", "its n", "worst in seeds"]]
    assert list(shown) == [row["worst_cell"], round(row["worst_cell_n"]), len(sizes)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_diverges_leaves_nothing(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(RunError, match=r"`unclipped`, seed \d: training diverged.*lower `lr`"):
        fairclip.compare(loans(), out=tmp_path / "x", jobs=jobs, **TINY | {"lr": 1e30})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_late_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RunError("Diverged.")

    monkeypatch.setattr("fairclip.comparison._arms.WeightedArm.step", fail)
    monkeypatch.setattr("fairclip.comparison._plan._check_steps", lambda *_: None)
    with pytest.raises(RunError, match=r"Diverged\. .*`resume` \(--resume\) goes on"):
        fairclip.compare(loans(), out=tmp_path / "x", jobs=1, **TINY | {"seeds": 1, "epochs": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial"]


@pytest.mark.parametrize(
    ("within", "reference"), [("all", "region=north, y=1"), ("label", "region=north")]
)
def test_a_named_reference_suits_the_arms_of_its_kind(
    tmp_path: Path, within: str, reference: str
) -> None:
    values = {"within": within, "reference": reference, "quick": False, "max_ratio": 2}
    prepare(Settings.of(TINY | values), loans(), out=tmp_path / "x")
    for other in {"all", "label", "both"} - {within}:
        chosen = Settings.of(TINY | values | {"within": other})
        with pytest.raises(
            ValueError, match=r"name a cell and use within='all'.*`reference` must "
        ):
            prepare(chosen, loans(), out=tmp_path / "y")


def test_a_named_reference_is_not_blamed_for_other_arms(tmp_path: Path) -> None:
    chosen = Settings.of(TINY | {"reference": "region=north, y=1", "arms": "group_dro@-1"})
    with pytest.raises(ValueError, match=r"^The arm group_dro@-1 cannot be trained: .*got -1"):
        prepare(chosen, loans(), out=tmp_path / "x")
