"""Arms by name, and runs that get more of them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fairclip
from fairclip.capping import TargetCap
from fairclip.comparison import Settings, prepare
from fairclip.comparison._arms import make_arm, make_arms
from fairclip.comparison._caps import FairArm, TargetArm
from fairclip.comparison._select import BASELINE
from fairclip.comparison._task import run_task
from tests.comparison._inputs import TINY, loans

FEW = TINY | {"seeds": 1, "epochs": 1}
ARMS = ("fair_cap@2", "fair_cap_label@0.5+norm", "cut@0.4", "reweight_within@0.5")


def test_exactly_the_named_arms_are_trained_beside_the_baseline(tmp_path: Path) -> None:
    run = fairclip.compare(loans(), out=tmp_path / "x", jobs=1, arms=ARMS, **FEW)
    assert run.tradeoff["arm"].tolist() == [BASELINE, *ARMS]


def test_a_name_says_all_of_a_cap() -> None:
    settings = Settings(smoothing=0.5)
    arm = make_arm("fair_cap_label@0.5+norm+clip+balance0.25", settings)
    assert isinstance(arm, FairArm)
    assert (arm.cap.max_ratio, arm.cap.within, arm.cap.preserve_norm) == (0.5, "label", True)
    assert arm.cap.label_balance == 0.25
    assert arm.clip
    assert arm.cap.smoothing == 0.5
    plain = make_arm("fair_cap@2", settings)
    assert isinstance(plain, FairArm)
    assert (plain.cap.within, plain.cap.preserve_norm, plain.clip) == ("all", False, False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ", on average and not below an equal vote."),
        ({"smoothing": 0.0}, ", in every batch and not below an equal vote."),
        ({"floor": 0.0}, ", on average and without a floor."),
        ({"floor": 0.3, "smoothing": 0.0}, ", in every batch and not below 0.3 of its own."),
    ],
)
def test_a_cap_says_its_average_and_its_floor(values: dict[str, Any], words: str) -> None:
    assert make_arm("fair_cap@2", Settings(**values)).note.endswith(words)


def test_a_name_says_all_of_a_target() -> None:
    arm = make_arm("target_cap@0.02+floor0.3+rate0.25", Settings())
    assert isinstance(arm, TargetArm)
    assert arm.cap == TargetCap("equalized_odds", gap=0.02, floor=0.3, rate=0.25)
    assert not arm.soft
    assert "cut predictions" in arm.note
    assert "(floor 0.3, rate 0.25)" in arm.note
    soft = make_arm("target_cap_worst@0.2+soft", Settings())
    assert isinstance(soft, TargetArm)
    assert soft.cap == TargetCap("worst_cell", gap=0.2)
    assert soft.soft
    assert "probabilities" in soft.note


def test_a_target_is_followed_by_codes_or_by_probabilities(tmp_path: Path) -> None:
    words = ["", "+soft", "+rate9", "+rate9+floor0.9"]
    names = [f"target_cap_worst@0.01{word}" for word in words]
    run = fairclip.compare(loans(), out=tmp_path / "x", jobs=1, arms=names, **FEW | {"epochs": 3})
    assert run.tradeoff["arm"].tolist() == [BASELINE, *names]
    folder = tmp_path / "x" / "predictions"
    scores = {
        tuple(pd.read_csv(folder / f"{arm}__seed0.csv.gz")["y_score"]) for arm in [BASELINE, *names]
    }
    assert len(scores) == 5


def test_every_arm_says_what_it_is() -> None:
    targets = ["target_cap@0.1", "target_cap@0.1+soft", "target_cap@0.1+floor0.3"]
    names = [
        *ARMS,
        *targets,
        "target_cap_worst@0.1",
        "exponentiated_gradient",
        "threshold_optimizer_tpr@0.1",
        "torchjd:UPGrad@0.5",
    ]
    notes = [arm.note for arm in make_arms(Settings(rivals=tuple(names)))]
    assert len(set(notes)) == len(notes)
    assert all(note.endswith(".") for note in notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fair_cap", "it needs a finite value, as in fair_cap@2"),
        ("fair_cap@two", "behind the @ stands a number, not 'two'"),
        ("fair_cap@", "behind the @ stands a number, not ''"),
        ("best@x", "there are unclipped, clip_norm"),
        ("torchjd:UPGrad@nan", "it needs a finite value"),
        ("torchjd:UPGrad@-1", "the power must be in [0, 10], got -1"),
        ("reweight@-1", "the power must be in [0, 10], got -1"),
        ("fair_cap@nan", "it needs a finite value, as in fair_cap@2"),
        ("fair_cap@-1", "`max_ratio` must be positive"),
        ("fair_cap@2+clap", "behind a + stands clip, norm or balance0.5"),
        ("fair_cap_label@2+balance", "could not convert string to float"),
        ("fair_cap@2+balance0.5", "`label_balance` must be in [0, 1], and 0 unless `within`"),
        ("reweight@1+norm", "a + stands behind fair_cap, fair_cap_label, target_cap, target_cap_w"),
        ("torchjd:UPGrad@1+norm", "a + stands behind fair_cap, fair_cap_label, target_cap,"),
        ("target_cap@0.02+norm", "behind a + stands soft, floor0.3 or rate0.3"),
        ("target_cap@0.02+rate", "could not convert string to float"),
        ("target_cap@0.02+floor2", "`floor` must be in [0, 1], got 2"),
        ("target_cap@2", "`gap` must be in [0, 1], got 2"),
        ("torchjd:UPGrad@much", "behind the @ stands a number, not 'much'"),
        ("unclipped@3", "it takes no value"),
        ("threshold@0.3", "it takes no value"),
        ("cut@1", "the cut must be between 0 and 1, got 1"),
        ("exponentiated_gradient@0", "the bound must be positive, got 0"),
        ("threshold_optimizer_tpr@-1", "the tolerance must not be negative, got -1"),
        (
            "best",
            "there are unclipped, clip_norm, threshold, threshold_optimizer, fair_cap, fair_cap_l",
        ),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"There is no arm '{name}': ") + f".*{re.escape(message)}"
    ):
        make_arms(Settings(arms=(name,)))


def test_a_cut_moves_the_predictions_of_the_baseline(tmp_path: Path) -> None:
    fairclip.compare(loans(), out=tmp_path / "x", jobs=1, arms=["cut@0.4"], **FEW)
    folder = tmp_path / "x" / "predictions"
    cut, plain = (pd.read_csv(folder / f"{arm}__seed0.csv.gz") for arm in ("cut@0.4", BASELINE))
    assert cut["y_score"].equals(plain["y_score"])
    assert cut["y_pred"].tolist() == (plain["y_score"] >= 0.4).astype(int).tolist()
    assert cut["y_pred"].tolist() != plain["y_pred"].tolist()


def test_a_finished_run_gets_more_arms_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FEW | {"arms": ["fair_cap@2"]}
    fairclip.compare(loans(), out=tmp_path / "x", jobs=1, **first)
    with pytest.raises(ValueError, match="`resume` it to add arms or seeds"):
        fairclip.compare(loans(), out=tmp_path / "x", jobs=1, **first)
    more: dict[str, Any] = FEW | {"arms": ["fair_cap@2", "reweight@1"], "seeds": 2}
    trained: list[tuple[str, int]] = []

    def count(table: Any, settings: Any, arm: Any, seed: int, folder: Path) -> None:
        trained.append((arm.name, seed))
        run_task(table, settings, arm, seed, folder)

    before = (tmp_path / "x" / "tradeoff.csv").read_bytes()
    settings = Settings.of({**more, "data": "table in memory"})
    prepare(settings, loans(), out=tmp_path / "x", resume=True)  # and no more, as if interrupted
    assert (tmp_path / "x" / "tradeoff.csv").read_bytes() == before
    assert Settings.read(tmp_path / "x" / "config.toml").seeds == 1
    with monkeypatch.context() as counting:
        counting.setattr("fairclip.comparison._plan.run_task", count)
        grown = fairclip.compare(loans(), out=tmp_path / "x", resume=True, jobs=1, **more)
    assert sorted(trained) == [
        ("fair_cap@2", 1),
        ("reweight@1", 0),
        ("reweight@1", 1),
        (BASELINE, 1),
    ]
    fresh = fairclip.compare(loans(), out=tmp_path / "y", jobs=1, **more)
    pd.testing.assert_frame_equal(grown.tradeoff, fresh.tradeoff, check_exact=True)
    for name in ("runs", "runs_by_group", "tradeoff"):
        mine, other = (tmp_path / run / f"{name}.csv" for run in ("x", "y"))
        assert mine.read_bytes() == other.read_bytes()
    assert Settings.read(tmp_path / "x" / "config.toml").seeds == 2
    assert not (tmp_path / "x.partial").exists()
    assert not list((tmp_path / "x").glob("tasks/inputs__*"))


def test_every_run_is_in_the_tables(tmp_path: Path) -> None:
    run = fairclip.compare(
        loans(), out=tmp_path / "x", jobs=1, arms=ARMS, **FEW | {"seeds": 2, "epochs": 3}
    )
    assert len(run.runs) == 5 * 2 * 2
    assert len(run.runs_by_group) == 5 * 2 * 2 * 2
    test = run.runs[run.runs["part"] == "test"]
    means = test.groupby("arm", sort=False)["worst_cell_accuracy"].mean()
    assert np.allclose(means, run.tradeoff["worst_cell_accuracy_mean"])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "x" / "runs.csv"), run.runs)
    chosen = "arm == 'cut@0.4' and seed == 1 and part == 'validation'"
    rates, figures = run.runs_by_group.query(chosen), run.runs.query(chosen)
    recalls = pd.concat([rates["tpr"], 1 - rates["fpr"]])
    assert recalls.min() == pytest.approx(figures["worst_cell_accuracy"].item())
