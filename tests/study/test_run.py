"""The study from the command line to the page, on two tiny settings."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import fairclip.study
from fairclip import comparison
from fairclip.cli import app
from fairclip.metrics import Report
from fairclip.study import Setting, _run, run_study, study_settings
from fairclip.study._families import FAMILIES

ARMS = ("fair_cap@2", "label_reweight@0.5", "cut@0.4", "reweight@0.5")
TINY: dict[str, Any] = {"data": "german", "seeds": 2, "epochs": 1, "hidden": (4,), "arms": ARMS}
SETTINGS = (
    Setting("small", "Small", "A few rows.", TINY),
    Setting("logistic", "Logistic", "A few rows.", {**TINY, "hidden": ()}, main=False),
)
Study = Callable[..., Any]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return the command, on two tiny settings."""
    monkeypatch.setattr(_run, "study_settings", lambda *, smoke: SETTINGS)
    command = ["study", f"--out={tmp_path / 'study'}", "--jobs=1"]
    return lambda *flags: CliRunner().invoke(app, [*command, *flags])


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that will hold the folder of every comparison that is run."""
    names: list[str] = []
    measure = comparison.Plan.measure

    def counted(self: comparison.Plan, *args: Any) -> Any:
        names.append(self.folder.final.name)
        return measure(self, *args)

    monkeypatch.setattr(comparison.Plan, "measure", counted)
    return names


def test_a_study_from_start_to_page_in_two_calls(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names = tmp_path / "study", trained(monkeypatch)
    first = study("--only=small")
    assert first.exit_code == 0, first.output
    assert "goal not met" in first.stdout
    assert json.loads((out / "study.json").read_text())["missing"] == ["logistic"]

    assert study().exit_code == 0
    assert names == ["small", "logistic"]  # what was finished is not run again
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "arms.csv",
        "fronts.csv",
        "pictures.csv",
        "study.html",
        "study.json",
        "study.md",
        "verdicts.csv",
    ]
    verdicts = pd.read_csv(out / "verdicts.csv")
    assert set(verdicts["setting"]) == {"small", "logistic"}
    assert set(verdicts["rival"]) == {
        "unclipped",
        "label reweighting",
        "thresholds",
        "reweighting",
    }
    assert set(verdicts["family"]) == {"NormCap"}
    runs = pd.read_csv(out / "small" / "runs.csv").set_index(["arm", "seed", "part"])["accuracy"]
    fronts = pd.read_csv(out / "fronts.csv")
    row = fronts[(fronts["setting"] == "small") & (fronts["view"] == "worst cell")].iloc[0]
    assert row["accuracy"] == runs[(row["arm"], row["seed"], "test")]
    arms = pd.read_csv(out / "arms.csv")
    assert set(arms["arm"]) == {"unclipped", *ARMS}

    (out / "study.html").unlink()
    assert study().exit_code == 0
    assert names == ["small", "logistic"]
    assert (out / "study.html").exists()  # a call with nothing to run writes the page


def test_interrupted_it_says_how_to_go_on_and_goes_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    with monkeypatch.context() as patch:
        patch.setattr(comparison.Plan, "measure", _interrupt)
        stopped = study("--only=small")
    assert stopped.exit_code == 130
    assert f"The same command goes on with {out}" in " ".join(stopped.stderr.split())
    assert json.loads((out / "study.json").read_text())["missing"] == ["small", "logistic"]
    assert (out / "small.partial").is_dir()
    assert study("--only=small").exit_code == 0
    assert json.loads((out / "study.json").read_text())["missing"] == ["logistic"]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_runs_of_other_settings_are_not_mixed_in(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study("--only=small").exit_code == 0
    other = (Setting("small", "Small", "", {**TINY, "epochs": 2}),)
    monkeypatch.setattr(_run, "study_settings", lambda *, smoke: other)
    refused = study()
    assert refused.exit_code == 2
    assert "`epochs` was 1, now 2" in refused.stderr
    assert study("--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--only=moon", "has no 'moon'; there are small, logistic"),
        ("--only=", "names no setting; there are small, logistic"),
        ("--jobs=0", "`jobs`"),
    ],
)
def test_bad_flags_are_refused(study: Study, tmp_path: Path, flag: str, message: str) -> None:
    refused = study(flag)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert not (tmp_path / "study").exists()


def test_a_setting_that_fails_does_not_stop_the_others(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, measure = tmp_path / "study", comparison.Plan.measure

    def fails(self: comparison.Plan, *args: Any) -> Any:
        if self.folder.final.name == "small":
            cause = comparison.RunError("The loss is not finite.")
            raise comparison.RunError(f"{cause} `resume` (--resume) goes on.") from cause
        return measure(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(comparison.Plan, "measure", fails)
        failed = study()
    assert failed.exit_code == 2
    said = " ".join(failed.stderr.split())
    assert "1 of the settings failed. small: The loss is not finite. The others are" in said
    assert "run the same command again" in said
    assert "--resume" not in said
    assert json.loads((out / "study.json").read_text())["missing"] == ["small"]


def test_a_setting_that_has_fewer_arms_now_is_missing_until_it_is_extended(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    assert study().exit_code == 0
    more = tuple(
        replace(setting, values={**setting.values, "arms": (*ARMS, "cut@0.6")})
        for setting in SETTINGS
    )
    monkeypatch.setattr(_run, "study_settings", lambda *, smoke: more)
    with monkeypatch.context() as patch:
        patch.setattr(comparison.Plan, "measure", _interrupt)
        assert study().exit_code == 130
    assert json.loads((out / "study.json").read_text())["missing"] == ["small", "logistic"]
    # The second one's turn had not come.
    assert (out / "logistic").is_dir()
    assert not (out / "logistic.partial").exists()


def test_what_the_page_needs_is_looked_for_before_training(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "moocore", None)
    refused = study()
    assert refused.exit_code == 2
    assert 'pip install "fairclip[study]"' in refused.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("error", "raised"), [(ZeroDivisionError, ZeroDivisionError), (ValueError, comparison.RunError)]
)
def test_an_error_of_the_page_does_not_hide_the_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    raised: type[Exception],
) -> None:
    def no_page(*_: Any) -> None:
        raise OSError("disk full")

    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(_run, "study_settings", lambda *, smoke: SETTINGS)
    monkeypatch.setattr(_run, "write_page", no_page)
    monkeypatch.setattr(comparison.Plan, "measure", broken)
    with pytest.raises(raised) as caught:
        run_study(tmp_path / "study", jobs=1)
    assert caught.value.__notes__ == ["Nor could the page be written: disk full"]


@pytest.mark.parametrize("files", [(), ("notes.txt",), ("config.toml",)])
def test_a_folder_of_something_else_is_left_alone(
    study: Study, tmp_path: Path, files: tuple[str, ...]
) -> None:
    folder = tmp_path / "study" / "small"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("mine = 1")
    refused = study("--only=small")
    assert refused.exit_code == 2
    assert "small exists and is not a run of fairclip" in " ".join(refused.stderr.split())
    assert sorted(path.name for path in folder.iterdir()) == list(files)


@pytest.mark.parametrize(
    ("flags", "folder"), [([], "runs/study"), (["--smoke"], "runs/study-smoke")]
)
def test_a_smoke_run_has_its_own_folder(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], folder: str
) -> None:
    outs: list[Path] = []

    def fake(out: Path, **_: Any) -> Report:
        outs.append(out)
        return Report("title", "lead", (), {})

    monkeypatch.setattr(fairclip.study, "run_study", fake)
    done = CliRunner().invoke(app, ["study", *flags])
    assert done.exit_code == 0, done.output
    assert outs == [Path(folder)]
    assert f"{folder}/study.html" in done.stdout


@pytest.mark.parametrize("smoke", [False, True])
def test_the_settings_are_ones_that_a_comparison_takes(smoke: bool) -> None:
    settings = study_settings(smoke=smoke)
    assert sum(setting.main for setting in settings) == 8
    assert len({setting.name for setting in settings}) == len(settings)
    for setting in settings:
        found = comparison.Settings.of(setting.values)
        assert found.seeds == (2 if smoke else 10)
        assert found.arms == setting.values["arms"]


def test_all_arms_are_in_the_registry(tmp_path: Path) -> None:
    values = next(s for s in study_settings() if s.name == "german-age").values
    plan = comparison.prepare(comparison.Settings.of(values), out=tmp_path / "x")
    assert [arm.name for arm in plan.arms] == ["unclipped", *values["arms"]]
    assert len(plan.arms) == len({arm for family in FAMILIES for arm in family.arms}) + 1


def test_the_function_is_public(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no 'x'"):
        run_study(tmp_path, only=["x"])
    with pytest.raises(ValueError, match="names no setting"):
        run_study(tmp_path, only=[])
