"""`fairclip audit`, as a user types it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from fairclip import metrics
from fairclip.cli import app

COLUMNS = ["--y-true=y_true", "--y-pred=y_pred", "--sensitive=sex"]
QUICK = ["--n-boot=49"]
LABELS = ["cat", "dog", "emu"]


def scored(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 2, n)
    score = np.round((y_true + rng.random(n)) / 2, 3)
    newer = np.round((y_true + rng.random(n)) / 2, 3)
    return pd.DataFrame(
        {
            "y_true": y_true,
            "y_pred": (score > 0.4).astype(int),
            "score": score,
            "new": (newer > 0.45).astype(int),
            "new_score": newer,
            "weight": rng.integers(1, 4, n),
            "sex": rng.choice(["female", "male"], n),
            "race": rng.choice(["a", "b"], n, p=[0.2, 0.8]),
        }
    )


def assess(path: Path, *flags: str, width: int = 120) -> Result:
    return CliRunner().invoke(
        app, ["audit", str(path), *COLUMNS, *QUICK, *flags], env={"COLUMNS": str(width)}
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.csv"
    scored().to_csv(path, index=False)
    return path


@pytest.fixture
def found() -> metrics.Audit:
    frame = scored()
    return metrics.audit(
        frame["y_true"], frame["y_pred"], sensitive_features=frame[["sex"]], n_boot=49
    )


def assert_refused(path: Path, flags: list[str], message: str) -> None:
    before = sorted(path.parent.rglob("*"))
    result = assess(path, *flags)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("edit", "flags", "message"),
    [
        (lambda f: f.drop(columns="y_pred"), [], "no column `y_pred`; there are y_true, score"),
        (lambda f: f, ["--y-score=s"], "no column `s`"),
        (lambda f: f, ["--sample-weight=w"], "no column `w`"),
        (lambda f: f, ["--sensitive=sex,"], "no column ``"),
        (lambda f: f, ["--sensitive=sex,sex"], "`sex` is named twice in --sensitive"),
        (lambda f: f, ["--y-pred=y_pred"], "`y_pred` is named twice in --y-pred"),
        (lambda f: f, ["--y-pred=new", "--y-score=score"], "once for each --y-pred"),
        (lambda f: f.iloc[:0], [], "has no rows"),
        (lambda f: f.assign(y_pred=f["y_pred"].where(f.index > 0, 7)), [], "values of `y_true`"),
        (lambda f: f.assign(y_true=f["y_true"].where(f.index > 0)), [], "1 missing values"),
        (lambda f: f.assign(y_true=2, y_pred=2), [], "must hold two values"),
        (lambda f: f.assign(sex=f.index), [], "400 values in 400 rows"),
        (lambda f: f.assign(score=f["score"].where(f.index > 0)), ["--y-score=score"], "missing"),
        (lambda f: f.assign(weight=-1), ["--sample-weight=weight"], "must be 0 or more"),
        (lambda f: f, ["--favourable=yes"], "`favourable` must be one of"),
        (lambda f: f, ["--task=ranking"], "`task` must be"),
        (lambda f: f, ["--reference=sex=other"], "There are: sex=female; sex=male."),
        (lambda f: f, ["--confidence=95"], "`confidence` must be between 0 and 1"),
        (lambda f: f, ["--metric=acuracy"], "acuracy"),
        (lambda f: f, ["--suppress-below=-1"], "`suppress_below` must be 0 or more"),
        (lambda f: f, ["--format=html"], "--format"),
        (lambda f: f, ["--fail-under=accuracy"], "--fail-under must be as accuracy=0.6"),
        (lambda f: f, ["--fail-under=accuracy=high"], "--fail-under must be as accuracy=0.6"),
        (lambda f: f, ["--fail-over=accuracy=nan"], "--fail-over must be as accuracy=0.6"),
        (lambda f: f, ["--fail-over==1"], "--fail-over must be as accuracy=0.6"),
        (lambda f: f, ["--fail-under=accuracy=.6", "--fail-under=accuracy=.7"], "named twice in"),
        (
            lambda f: f,
            ["--fail-under=acc=0.6"],
            "no figure `acc`. There are: base_rate, accuracy",
        ),
        (
            lambda f: f,
            ["--fail-over=accuracy_difference=0.1", "--use-bounds"],
            "`accuracy_difference` has no upper bound",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path,
    edit: Callable[[pd.DataFrame], pd.DataFrame],
    flags: list[str],
    message: str,
) -> None:
    path = tmp_path / "predictions.csv"
    edit(scored()).to_csv(path, index=False)
    out = [] if flags == ["--format=html"] else [f"--out={tmp_path / 'audit'}"]
    assert_refused(path, [*flags, *out], message)


def test_a_folder_that_is_there_and_an_unknown_format_are_refused(data: Path) -> None:
    assert_refused(data, [f"--out={data.parent}"], "exists")
    assert_refused(data, [f"--out={data.parent / 'x'}", "--format=html,pdf"], "got 'pdf'")


def test_figures_are_printed_and_written(data: Path, found: metrics.Audit) -> None:
    out = data.parent / "audit"
    result = assess(data, "--y-score=score", f"--out={out}")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    low, high = found.intervals.loc[("sex=female", "accuracy"), ["low", "high"]]
    assert re.search(rf"sex=female +\d+ +{found.by_group['accuracy']['female']:.3f}", result.stdout)
    assert f"{low:.3f}–{high:.3f}" in result.stdout
    gap = found.gaps["value"]["demographic_parity_difference"]
    assert f"demographic_parity_difference {gap:.3f} (p = 0." in result.stdout
    rates = found.by_group["selection_rate"].sort_values()
    words = [f"{1000 * rates.iloc[i]:.0f}" for i in (1, 0)]
    assert (
        f"Of 1,000 rows, {words[0]} are predicted 1 in sex={rates.index[1]} and {words[1]} in "
        f"sex={rates.index[0]}." in result.stdout
    )
    assert {path.name for path in out.iterdir()} >= {"report.html", "report.md", "report.json"}
    assert f"Report: {out / 'report.html'}" in result.stdout.replace("\n", "")


def test_only_the_formats_that_were_asked_for_are_written(data: Path) -> None:
    out = data.parent / "audit"
    assert assess(data, f"--out={out}", "--format=json, md").exit_code == 0
    assert {path.suffix for path in out.iterdir()} == {".json", ".md"}


def test_json_alone_is_on_stdout(data: Path, found: metrics.Audit) -> None:
    result = assess(data, "--json", "--fail-under=accuracy=0.99")
    assert result.exit_code == 1
    settings = json.loads(result.stdout)["settings"]
    assert settings["data_sha256"] == found.settings["data_sha256"]
    assert result.stderr.startswith("check failed: accuracy is ")


def test_every_option_reaches_the_audit(data: Path) -> None:
    flags = {
        "task": "binary",
        "reference": "sex=female",
        "confidence": "0.8",
        "n-boot": "33",
        "min-group-size": "3",
        "random-state": "7",
        "suppress-below": "2",
        "metric": "f1_score",
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    result = assess(data, "--json", *given, "--metric=zero_one_loss", "--sample-weight=weight")
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout)["settings"]
    assert settings["metrics"] == ["f1_score", "zero_one_loss"]
    for name, value in list(flags.items())[:-1]:
        assert str(settings[name.replace("-", "_")]) == value
    assert settings["weighted"] is True


def test_a_file_of_thresholds_reaches_the_report(data: Path) -> None:
    own = data.parent / "own.toml"
    own.write_text(
        """
[[threshold]]
name = "House rule"
source = "Our handbook"
url = "https://example.org/handbook"
text_date = 2026-01-01
checked = 2026-01-02
figure = "tpr"
comparison = "value"
value = 0.9
min_share = 0.0
min_rows = 0
note = "For this model."
"""
    )
    result = assess(data, "--json", f"--thresholds={own}")
    assert result.exit_code == 0, result.output
    assert "House rule" in result.stdout
    missing = assess(data, "--json", f"--thresholds={own}.none")
    assert missing.exit_code == 2
    assert "`thresholds` must be a file" in missing.stderr


def test_checks_decide_about_the_exit_code_and_say_why(data: Path, found: metrics.Audit) -> None:
    accuracy = found.overall["accuracy"]
    over = found.gaps["value"]["equalized_odds_difference"] + 0.01
    kept = [f"--fail-under=accuracy={accuracy}", f"--fail-over=equalized_odds_difference={over}"]
    result = assess(data, *kept)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["check holds"] * 2
    result = assess(data, *kept, f"--fail-over=tpr[sex=male]={accuracy / 2}")
    assert result.exit_code == 1
    tpr = found.by_group["tpr"]["male"]
    assert result.stderr.splitlines()[-1] == (
        f"check failed: tpr[sex=male] is {tpr:.6g}: over {accuracy / 2:g}"
    )
    assert "worst_group_accuracy" in result.stdout  # the audit is shown all the same


def test_a_failed_check_leaves_the_report(data: Path) -> None:
    out = data.parent / "audit"
    assert assess(data, f"--out={out}", "--fail-under=accuracy=1").exit_code == 1
    assert (out / "report.html").exists()


def test_bounds_are_stricter(data: Path, found: metrics.Audit) -> None:
    flags = [f"--fail-under=worst_group_accuracy={found.worst['value']['worst_group_accuracy']}"]
    assert assess(data, *flags).exit_code == 0
    result = assess(data, *flags, "--use-bounds")
    assert result.exit_code == 1
    bound = found.worst["bound"]["worst_group_accuracy"]
    assert f"its lower bound {bound:.6g}: under" in result.stderr


def test_two_predictions_are_compared_and_the_second_is_checked(data: Path) -> None:
    frame, out = scored(), data.parent / "audit"
    found = metrics.tradeoff(
        {name: frame[name] for name in ("y_pred", "new")},
        frame["y_true"],
        sensitive_features=frame[["sex"]],
        y_scores={"y_pred": frame["score"], "new": frame["new_score"]},
        baseline="y_pred",
        n_boot=49,
    )
    limit = found.table["accuracy"].mean()
    models = ["--y-pred=new", "--y-score=score", "--y-score=new_score"]
    result = assess(data, *models, f"--out={out}", f"--fail-under=accuracy={limit}")
    assert result.exit_code == (found.table["accuracy"]["new"] < limit)
    assert result.stderr.startswith("new: check ")
    assert f"accuracy is {found.table['accuracy']['new']:.6g}" in result.stderr
    row = found.changes.to_dict("index")["new", "sex=male", "accuracy"]
    assert f"{row['baseline']:.3f} → {row['candidate']:.3f}" in result.stdout
    assert f"{row['low']:+.3f} to {row['high']:+.3f}" in result.stdout
    for name in ("equalized_odds_difference", "worst_cell_accuracy"):
        values = [f"{value:.3f}" for value in found.table.loc[["y_pred", "new"], name]]
        assert f"{name} {' → '.join(values)}" in result.stdout
    assert "Cut where both select as many rows as y_pred" in result.stdout
    assert json.loads((out / "report.json").read_text())["settings"]["baseline"] == "y_pred"


def test_several_labels_have_a_score_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1, 1, 1], 300)
    frame = pd.DataFrame(scores, columns=["p_cat", "p_dog", "p_emu"]).assign(
        y_true=rng.choice(LABELS, 300),
        y_pred=np.array(LABELS)[scores.argmax(1)],
        sex=rng.choice(["f", "m"], 300),
    )
    frame.to_parquet(tmp_path / "p.parquet")
    result = assess(tmp_path / "p.parquet", "--y-score=p_cat,p_dog,p_emu")
    assert result.exit_code == 0, result.output
    auc = metrics.audit(
        frame["y_true"],
        frame["y_pred"],
        sensitive_features=frame["sex"],
        y_score=scores,
        n_boot=9,
    ).overall["auc"]
    assert f"{auc:.3f}" in result.stdout
    assert "tpr[cat]" in result.stdout


def test_a_regression_is_shown_in_its_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(30_000, 8_000, 300)
    error = rng.normal(100, 20, 300)
    frame = pd.DataFrame({"y_true": y, "y_pred": y + error, "sex": rng.choice(["f", "m"], 300)})
    frame.to_csv(tmp_path / "p.csv", index=False)
    result = assess(tmp_path / "p.csv", "--fail-over=worst_group_mae=99", width=80)
    assert result.exit_code == 1, result.output
    assert f"{np.abs(error).mean():.1f}" in result.stdout
    assert "no group is above" in result.stdout
    worst = np.abs(error)[frame["sex"] == "f"].mean(), np.abs(error)[frame["sex"] == "m"].mean()
    assert f"check failed: worst_group_mae is {max(worst):.6g}: over 99" in result.stderr


def test_hidden_groups_are_hidden_from_the_terminal_and_from_checks(tmp_path: Path) -> None:
    frame = scored()
    frame.loc[:6, "sex"] = "other"
    frame.loc[0, ["y_true", "y_pred"]] = [1, 0]
    frame.to_csv(tmp_path / "p.csv", index=False)
    flags = ["--suppress-below=10", "--fail-over=fnr[sex=other]=1"]
    assert re.search(r"sex=other +7 +0\.", assess(tmp_path / "p.csv").stdout)
    result = assess(tmp_path / "p.csv", *flags)
    assert re.search(r"sex=other +n/a +n/a +n/a", result.stdout)
    assert result.exit_code == 1
    assert "fnr[sex=other] is n/a (undefined or hidden)" in result.stderr
    paired = assess(tmp_path / "p.csv", *flags, "--y-pred=new")
    assert re.search(r"sex=other +n/a +n/a → n/a +n/a → n/a", paired.stdout)
    assert paired.exit_code == 1
    as_json = assess(tmp_path / "p.csv", "--suppress-below=10", "--json")
    assert json.loads(as_json.stdout)["settings"]["suppress_below"] == 10


def test_what_is_undefined_is_shown_as_such_and_fails_a_check(tmp_path: Path) -> None:
    frame = scored()
    frame.loc[frame["sex"] == "male", "y_true"] = 0
    frame.to_csv(tmp_path / "p.csv", index=False)
    result = assess(tmp_path / "p.csv", "--fail-over=equalized_odds_difference=1")
    assert result.exit_code == 1
    assert "equalized_odds_difference n/a (p = n/a)" in result.stdout
    assert "equalized_odds_difference is n/a" in result.stderr
    assert "nan" not in result.stdout


def test_labels_in_words(tmp_path: Path) -> None:
    words = {0: "rejected", 1: "approved"}
    frame = scored()
    named = frame.assign(y_true=frame["y_true"].map(words), y_pred=frame["y_pred"].map(words))
    named.to_parquet(tmp_path / "p.parquet")
    result = assess(tmp_path / "p.parquet", "--favourable=approved", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["settings"]["favourable"] == "approved"


@pytest.mark.parametrize("dtype", [int, float, bool])
def test_the_favourable_label_is_found_as_it_is_written(tmp_path: Path, dtype: type) -> None:
    frame = scored().astype({"y_true": dtype, "y_pred": dtype})
    frame.to_parquet(tmp_path / "p.parquet")
    for text in ("0", str(dtype(0))):
        result = assess(tmp_path / "p.parquet", f"--favourable={text}", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["settings"]["favourable"] == 0


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_lines_keep_to_the_width_of_the_terminal(data: Path, width: int) -> None:
    flags = ["--sensitive=sex,race", "--y-score=score"]
    for more in ([], ["--y-pred=new", "--y-score=new_score"]):
        result = assess(data, *flags, *more, width=width)
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= width
        assert "sex=female, race=a" in result.stdout


def test_of_many_groups_the_extremes_are_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 5_000
    region = rng.integers(0, 100, n)
    y = rng.integers(0, 2, n)
    frame = pd.DataFrame(
        {
            "y_true": y,
            "y_pred": np.where(rng.random(n) < region / 100, y, 1 - y),
            "region": [f"r{code:02d}" for code in region],
        }
    )
    frame.to_csv(tmp_path / "p.csv", index=False)
    result = assess(tmp_path / "p.csv", "--sensitive=region")
    assert result.exit_code == 0, result.output
    shown = re.findall(r"region=(r\d\d) +\d", result.stdout)
    accuracy = (frame["y_true"] == frame["y_pred"]).groupby(frame["region"]).mean()
    assert len(shown) == 14
    assert "86 more groups are in the report" in result.stdout
    assert accuracy[shown].is_monotonic_increasing
    assert accuracy[shown[0]] == accuracy.min()
    assert accuracy[shown[-1]] == accuracy.max()


def test_an_audit_needs_no_torch(data: Path) -> None:
    code = (
        "import sys; from fairclip.cli import app; "
        "app(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "audit", str(data), *COLUMNS, *QUICK]
    result = subprocess.run(
        [*command, f"--out={data.parent / 'audit'}"], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "False"


def test_a_pipe_is_as_wide_as_a_table_needs(data: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "fairclip", "audit", str(data), *COLUMNS, *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 80 < max(map(len, done.stdout.splitlines())) <= 120
    assert done.stderr == ""  # no bar where there is no terminal


def test_an_interrupted_audit_exits_with_130(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics, "audit", interrupt)
    result = assess(data)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
