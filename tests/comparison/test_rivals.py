"""Arms on demand, against the libraries that they come from."""

import re
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import binary_cross_entropy_with_logits
from typer.testing import CliRunner

import fairclip
from fairclip.cli import app
from fairclip.comparison import Comparison, RunError, Settings, prepare
from fairclip.comparison._arms import make_arm
from fairclip.comparison._fairlearn import exponentiated_gradient, optimise_thresholds
from fairclip.comparison._fit import Trainer
from fairclip.comparison._rivals import ExponentiatedGradientArm, ThresholdOptimizerArm, TorchJDArm
from fairclip.comparison._source import open_source
from fairclip.comparison._split import split, to_inputs
from fairclip.comparison._start import Start
from fairclip.comparison._table import Table, make_table
from fairclip.comparison._weighted import WeightedArm
from fairclip.groups import GroupBatchSampler
from fairclip.training import make_mlp
from tests.comparison._inputs import TINY, loans

# PCGrad draws at random.
RIVALS = ("torchjd:PCGrad", "exponentiated_gradient", "threshold_optimizer")
WITHOUT_SCORES = RIVALS[1:]
CHOSEN = TINY | {"rivals": RIVALS, "max_ratio": 2, "within": "all", "seeds": 1, "epochs": 1}

# pandas 3 on the way in which fairlearn fills its tables.
of_fairlearn = pytest.mark.filterwarnings("ignore::DeprecationWarning:fairlearn")


def some_unknown() -> pd.DataFrame:
    """Return the loans, with a few rows whose region is missing."""
    frame = loans()
    frame.loc[frame.index % 60 == 0, "region"] = None
    return frame


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("runs") / "x"
    return fairclip.compare(some_unknown(), out=out, jobs=1, **CHOSEN)


def predictions(run: Comparison, name: str) -> pd.DataFrame:
    assert run.folder is not None
    return pd.read_csv(run.folder / "predictions" / f"{name}__seed0.csv.gz")


def test_rivals_are_the_last_arms_of_every_table(run: Comparison) -> None:
    assert tuple(run.tradeoff["arm"].iloc[-3:]) == RIVALS
    assert tuple(run.by_group["arm"].unique()[-3:]) == RIVALS
    assert np.isfinite(run.tradeoff["worst_cell_accuracy_mean"]).all()
    assert predictions(run, "torchjd-PCGrad")["y_true"].equals(
        predictions(run, "unclipped")["y_true"]
    )


def test_arms_without_scores_have_no_figure_of_them(run: Comparison) -> None:
    table = run.tradeoff.set_index("arm")
    assert table.index[table["auc_mean"].isna()].tolist() == [*WITHOUT_SCORES]
    assert run.by_group.set_index("arm").loc[[*WITHOUT_SCORES], "ece_mean"].isna().all()
    matched = pd.DataFrame(run.report.data["matched"]).set_index("arm")
    assert matched.index[matched["accuracy_mean"].isna()].tolist() == [*WITHOUT_SCORES]
    shown = next(t.frame for t in run.report.tables() if t.caption.startswith("Arms at one"))
    assert set(table.index) - set(shown.index) == {*WITHOUT_SCORES}
    for arm in WITHOUT_SCORES:
        rows = predictions(run, arm)
        assert [*rows] == ["y_true", "y_pred", "region"]


def test_the_page_says_what_each_rival_is(run: Comparison) -> None:
    assert run.folder is not None
    page = (run.folder / "report.md").read_text()
    notes = next(t.frame for t in run.report.tables() if t.caption == "What each arm is.")["is"]
    assert notes.index.tolist() == run.tradeoff["arm"].tolist()
    assert notes["torchjd:PCGrad"].startswith("the gradients of the groups' mean losses, combined")
    assert notes["threshold_optimizer"].startswith("fairlearn's ThresholdOptimizer for equalized")
    assert "It needs the group of a row to predict" in page
    assert "Told the groups to predict, " in page
    assert "threshold_optimizer (told the groups)" in (run.folder / "report.html").read_text()
    assert "deprecated" not in page  # what pandas tells fairlearn
    blind = next(t.frame for t in run.report.tables() if t.caption.startswith("Every arm"))
    assert not blind.loc[[*RIVALS], "group-blind"].any()


def test_a_run_that_stopped_goes_on_with_the_same_figures(
    run: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RunError("stopped.")

    with monkeypatch.context() as broken:
        broken.setattr("fairclip.comparison._task.exponentiated_gradient", fail)
        with pytest.raises(RunError, match="`exponentiated_gradient`, seed 0: stopped"):
            fairclip.compare(some_unknown(), out=tmp_path / "x", jobs=1, **CHOSEN)
    assert Settings.read(tmp_path / "x.partial" / "config.toml").rivals == RIVALS
    with pytest.raises(ValueError, match="`epochs` was"):
        prepare(
            Settings.of(CHOSEN | {"epochs": 2}), some_unknown(), out=tmp_path / "x", resume=True
        )
    again = fairclip.compare(some_unknown(), out=tmp_path / "x", resume=True, jobs=1, **CHOSEN)
    pd.testing.assert_frame_equal(again.tradeoff, run.tradeoff, check_exact=True)


@pytest.mark.parametrize(
    ("rivals", "message"),
    [
        ("exponentiated", "There is no arm 'exponentiated': there are unclipped, clip_norm, thre"),
        ("torchjd:Upgrade", "argument and keep no state of each group: torchjd:AlignedMTL, "),
        ("torchjd:CAGrad", "There is no arm 'torchjd:CAGrad'"),  # needs c
        ("torchjd:PCD", "There is no arm 'torchjd:PCD'"),  # a state for each row
        ("torchjd:UPGradWeighting", "There is no arm 'torchjd:UPGradWeighting'"),
        ("torchjd:", "There is no arm 'torchjd:'"),
        (5, "`rivals` must be names of arms, got 5"),
    ],
)
def test_unknown_rivals_are_refused_before_anything_is_written(
    tmp_path: Path, rivals: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fairclip.compare(loans(), out=tmp_path / "x", **TINY | {"rivals": rivals})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    flags = ["compare", "german", "--quick", f"--out={tmp_path / 'x'}"]
    result = CliRunner().invoke(app, [*flags, "--rivals=threshold_optimizer,torchjd:UPGrad"])
    assert result.exit_code == 2
    assert result.stderr == 'error: This needs torchjd: pip install "fairclip[baselines]"\n'
    assert list(tmp_path.iterdir()) == []
    prepare(Settings.of(TINY | {"rivals": WITHOUT_SCORES}), loans(), out=tmp_path / "x")


def a_table() -> tuple[Table, Settings]:
    """Return the loans as an arm sees them."""
    source, settings = open_source(Settings.of(TINY | {"batch_size": 50, "lr": 0.02}), loans())
    return make_table(source, settings), settings


def weights(name: str) -> list[float]:
    """Return an arm's weight of each cell or label: the gradient of one of its rows."""
    table, settings = a_table()
    model = torch.nn.Linear(1, 1, bias=False)
    rows = split(table, 0).train
    arm = make_arm(name, settings)
    assert isinstance(arm, WeightedArm)
    step = arm.step(Start.of(model, table, rows, settings, 1.0, 0))
    found: list[float] = []
    for k in range(int((table.cells if arm.codes == "cells" else table.y).max()) + 1):
        model.weight.grad = None
        one = torch.ones(1, 1, dtype=torch.float32)
        step(model, one, one[0], torch.tensor([k]), lambda outputs, _: outputs[:, 0])
        assert model.weight.grad is not None
        found.append(float(model.weight.grad))
    return found


@pytest.mark.parametrize("name", ["reweight@1", "label_reweight@1"])
def test_reweighting_with_power_1_is_balanced_as_in_scikit_learn(name: str) -> None:
    table, _ = a_table()
    of_rows = (table.cells if name == "reweight@1" else table.y)[split(table, 0).train]
    balanced = compute_class_weight("balanced", classes=np.unique(of_rows), y=of_rows)
    assert weights(name) == pytest.approx(balanced, rel=1e-6)


def test_reweighting_with_power_a_half_worked_by_hand() -> None:
    table, _ = a_table()
    counts = np.bincount(table.cells[split(table, 0).train])
    found = np.array(weights("reweight@0.5"))
    assert found * np.sqrt(counts) == pytest.approx(found[0] * np.sqrt(counts[0]), rel=1e-6)
    assert found @ counts == pytest.approx(counts.sum(), rel=1e-6)


def test_reweighting_within_the_label_leaves_every_label_its_share() -> None:
    table, _ = a_table()
    counts = np.bincount(table.cells[split(table, 0).train])
    found, plain = np.array(weights("reweight_within@0.5")), np.array(weights("reweight@0.5"))
    labels = np.array([table.y[table.cells == k][0] for k in range(len(counts))])
    for label in (0, 1):
        of_label = labels == label
        assert found[of_label] @ counts[of_label] == pytest.approx(counts[of_label].sum(), rel=1e-6)
        assert np.ptp(found[of_label] / plain[of_label]) == pytest.approx(0, abs=1e-6)


def test_preferences_that_grow_with_the_rows_make_the_mean_ordinary_training() -> None:
    table, settings = a_table()
    rows = split(table, 0).train
    model = torch.nn.Linear(3, 1)
    start = Start.of(model, table, rows, settings, 1.0, 0)
    arm = make_arm("torchjd:Mean@1", settings)
    assert isinstance(arm, TorchJDArm)
    torch.manual_seed(0)
    inputs, groups = torch.randn(len(rows), 3), torch.from_numpy(start.codes["groups"])
    targets = torch.ones(len(rows))
    arm.step(start)(model, inputs, targets, groups, lambda outputs, _: outputs[:, 0] ** 2)
    found = model.weight.grad
    model.zero_grad()
    (model(inputs) ** 2).mean().backward()
    assert found is not None
    assert model.weight.grad is not None
    torch.testing.assert_close(found, model.weight.grad)


def test_threshold_optimizer_is_fairlearns_on_the_same_scores() -> None:
    table, _ = a_table()
    rows = split(table, 0)
    X = to_inputs(table.features, rows.train).double().numpy()
    model = LogisticRegression().fit(X[rows.train], table.y[rows.train])
    by_hand = ThresholdOptimizer(
        estimator=model, constraints="equalized_odds", prefit=True, predict_method="predict_proba"
    )
    part = rows.validation
    by_hand.fit(X[part], table.y[part], sensitive_features=table.sensitive.iloc[part])
    expected = by_hand.predict(X, sensitive_features=table.sensitive, random_state=3)
    scores = model.predict_proba(X)[:, 1]
    arm = ThresholdOptimizerArm("", "equalized_odds")
    found = optimise_thresholds(table.y, scores, table.groups, part, arm, seed=3)
    assert found.tolist() == expected.tolist()
    assert found.tolist() != (scores >= 0.5).astype(int).tolist()
    unknown = np.where(np.arange(len(scores)) % 5 == 0, -1, table.groups)
    partly = optimise_thresholds(table.y, scores, unknown, part, arm, seed=3)
    assert partly[::5].tolist() == (scores[::5] >= 0.5).astype(int).tolist()


class Plain:
    """The comparison's network, trained by a loop that is written out."""

    def __init__(self, settings: Settings, cells: Any) -> None:
        self.settings, self.cells = settings, cells

    def fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        self.model = make_mlp(X.shape[1], 1, self.settings.hidden, seed=1)
        assert self.settings.lr is not None
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.settings.lr)
        labels, weight = torch.tensor(np.array(y)).float(), torch.tensor(np.array(sample_weight))
        assert self.settings.batch_size is not None
        sampler = GroupBatchSampler(self.cells, self.settings.batch_size, seed=1)
        for _ in range(self.settings.epochs):
            for batch in sampler:
                outputs = self.model(torch.tensor(np.asarray(X))[batch]).squeeze(1)
                losses = binary_cross_entropy_with_logits(outputs, labels[batch], reduction="none")
                optimizer.zero_grad()
                (weight[batch].float() * losses).mean().backward()
                optimizer.step()
        return self

    def predict(self, X: Any) -> Any:
        with torch.no_grad():
            return (self.model(torch.tensor(np.asarray(X))).squeeze(1) >= 0).numpy().astype(int)


@of_fairlearn
def test_exponentiated_gradient_is_fairlearns_on_the_same_batches() -> None:
    table, settings = a_table()
    rows = split(table, 1).train
    inputs = to_inputs(table.features, rows)
    by_hand = ExponentiatedGradient(Plain(settings, table.cells[rows]), EqualizedOdds())
    X, sensitive = inputs.numpy(), table.sensitive.iloc[rows]
    by_hand.fit(X[rows], table.y[rows], sensitive_features=sensitive)
    expected = by_hand.predict(X, random_state=1)
    trainer = Trainer(settings, 1, table.cells[rows])
    arm = ExponentiatedGradientArm("", 0.01)
    found = exponentiated_gradient(inputs, table.y, table.groups, rows, arm, trainer)
    assert found.tolist() == expected.tolist()
    assert len(set(expected)) == 2
