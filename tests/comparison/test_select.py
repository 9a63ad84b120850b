import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from fairclip.cli import app
from fairclip.comparison import Settings, select_arm
from fairclip.comparison._arms import make_arms
from fairclip.comparison._findings import selected
from fairclip.comparison._results import METRICS, Results
from fairclip.comparison._select import _MORE_IS_BETTER, BASELINE, Selection
from tests.comparison._inputs import loans

NAMES = ["unclipped", "fair_cap@2", "fair_cap@1", "threshold_optimizer"]


def means(**columns: list[float]) -> pd.DataFrame:
    values = {
        "accuracy": [0.90, 0.88, 0.85, 0.90],
        "worst_cell_accuracy": [0.5, 0.6, 0.7, 0.5],
        "equalized_odds_difference": [0.2, 0.1, 0.3, 0.15],
        "auc": [0.9, 0.8, 0.7, float("nan")],
    }
    return pd.DataFrame({**values, **columns}, index=NAMES)


def results(validation: pd.DataFrame, test: pd.DataFrame) -> Results:
    parts = [test.add_suffix("_mean"), test.add_suffix("_low") - 0.01, test.add_suffix("_high")]
    shown = pd.concat(parts, axis=1).assign(
        worst_cell="sex=female, y=1", worst_cell_n=1352.0, selection_rate_mean=0.3
    )
    held_back = validation.add_suffix("_mean")
    empty = pd.DataFrame()
    tables = [table.rename_axis("arm").reset_index() for table in (shown, held_back)]
    return Results(
        tradeoff=tables[0],
        validation=tables[1],
        by_group=empty,
        telemetry=empty,
        matched=empty,
        runs=empty,
        runs_by_group=empty,
        warnings=(),
    )


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("worst_cell_accuracy", "fair_cap@1"),
        ("worst_cell_accuracy, accuracy >= unclipped - 0.02", "fair_cap@2"),
        ("worst_cell_accuracy,accuracy>=unclipped-.019", "unclipped"),
        ("worst_cell_accuracy, accuracy >= unclipped", "unclipped"),
        ("worst_cell_accuracy, accuracy >= 0.85", "fair_cap@1"),
        ("worst_cell_accuracy, accuracy >= 0.851", "fair_cap@2"),
        ("equalized_odds_difference", "fair_cap@2"),
        ("equalized_odds_difference, worst_cell_accuracy <= unclipped + 0.05", NAMES[3]),
        ("accuracy, equalized_odds_difference <= 0.25, worst_cell_accuracy >= 0.55", "fair_cap@2"),
        ("accuracy", "unclipped"),  # the first of equals
        ("auc", "unclipped"),
        # 0.3 - 0.1 is a little less than 0.2.
        ("worst_cell_accuracy, equalized_odds_difference >= unclipped + 0.1", "fair_cap@1"),
        ("equalized_odds_difference, auc >= 0", "fair_cap@2"),
        ("equalized_odds_difference, accuracy <= 0.9, auc <= 0.75", "fair_cap@1"),
        ("accuracy, worst_cell_accuracy >= 0.71", None),
    ],
)
def test_the_best_arm_within_the_constraints(expression: str, chosen: str | None) -> None:
    assert Selection.parse(expression).choose(means()) == chosen


def test_runs_are_averaged_over_the_seeds_of_the_validation_part() -> None:
    runs = pd.DataFrame(
        [
            ("unclipped", 0, "validation", 0.8),
            ("unclipped", 1, "validation", 0.8),
            ("fair_cap@2", 0, "validation", 0.9),
            ("fair_cap@2", 1, "validation", 0.6),
            ("fair_cap@2", 1, "test", 1.0),
        ],
        columns=["arm", "seed", "part", "accuracy"],
    )
    assert select_arm(runs, "accuracy") == "unclipped"
    assert select_arm(runs, "accuracy, accuracy <= unclipped - 0.04") == "fair_cap@2"


def test_metrics_are_those_of_the_tables_and_better_where_their_axes_say_so() -> None:
    assert tuple(_MORE_IS_BETTER) == METRICS
    axes: Any = import_module("fairclip.metrics._plots._words")
    assert {m: axes.direction(m) > 0 for m in METRICS} == _MORE_IS_BETTER


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("worst_cell", "the objective 'worst_cell'"),
        ("accuracy >= 0.8", "the objective 'accuracy >= 0.8'"),
        ("accuracy,", "the constraint ''"),
        ("accuracy, auc", "the constraint 'auc'"),
        ("accuracy, auc > 0.8", "the constraint 'auc > 0.8'"),
        ("accuracy, recall >= 0.8", "the constraint 'recall >= 0.8'"),
        ("accuracy, auc >= clipped - 0.02", "the constraint 'auc >= clipped - 0.02'"),
        ("accuracy, auc >= unclipped * 2", "the constraint 'auc >= unclipped * 2'"),
        ("accuracy, auc >= nan", "the constraint 'auc >= nan'"),
        ("accuracy, accuracy >= 85", "whose bound is no share in [0, 1]"),
        (5, "`select` must be an objective and constraints, got 5"),
    ],
)
def test_a_bad_expression_is_refused_with_what_there_is(expression: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Settings(select=expression)
    if isinstance(expression, str):
        assert "The metrics are accuracy, balanced_accuracy, auc, " in str(error.value)


def arms() -> Any:
    return make_arms(Settings(quick=True, rivals=("threshold_optimizer",)))


def test_the_sentence_shows_the_test_part_and_what_is_missed_there() -> None:
    columns = {"balanced_accuracy": [0.8] * 4}
    found = results(means(**columns), means(**columns, accuracy=[0.9, 0.87, 0.9, 0.9]))
    expression = "worst_cell_accuracy, accuracy >= unclipped - 0.02, auc >= 0.5"
    arm, sentence = selected(found, arms(), expression, 0.3)
    assert arm == "fair_cap@2"
    assert sentence == (
        f'Chosen by "{expression}" on the validation parts, among all {len(arms())} arms '
        "including unclipped: fair_cap@2. On the test parts: accuracy 0.870 [0.860, 0.870], "
        "balanced accuracy 0.800 [0.790, 0.800], worst cell accuracy 0.600 [0.590, 0.600] "
        "(sex=female, y=1, n = 1,352), equalized odds difference 0.100 [0.090, 0.100], auc 0.800 "
        "[0.790, 0.800]. There it misses accuracy >= unclipped - 0.02."
    )


def test_an_arm_that_is_told_the_groups_is_said_to_be() -> None:
    same = means(balanced_accuracy=[0.8] * 4)
    expression = "equalized_odds_difference, accuracy >= unclipped, accuracy >= 0.9"
    arm, sentence = selected(results(same, same), arms(), expression, 0.3)
    assert arm == "threshold_optimizer"
    assert " It needs the group of a row to predict. Its cuts were fitted on the valid" in sentence


def test_an_arm_that_hardly_looks_at_its_input_is_said_to_be_so() -> None:
    trivial = means(balanced_accuracy=[0.8, 0.5, 0.8, 0.8])
    arm, sentence = selected(results(trivial, trivial), arms(), "equalized_odds_difference", 0.3)
    assert arm == "fair_cap@2"
    assert "close to trivial: balanced accuracy 0.500" in sentence


@pytest.mark.parametrize("lost", ["auc", "part", "baseline"])
def test_runs_that_lack_something_are_refused(lost: str) -> None:
    runs = means().rename_axis("arm").reset_index().assign(part="validation")
    runs = runs[runs["arm"] != BASELINE] if lost == "baseline" else runs.drop(columns=lost)
    with pytest.raises(ValueError, match="`runs` must have"):
        select_arm(runs, "worst_cell_accuracy, auc >= 0.5")


def test_no_arm_is_said_in_words() -> None:
    same = means(balanced_accuracy=[0.8] * 4)
    arm, sentence = selected(results(same, same), arms(), "accuracy, accuracy >= 0.95", 0.3)
    assert arm is None
    assert sentence.startswith('No arm satisfies "accuracy, accuracy >= 0.95" on the validation')


def test_the_command_names_the_arm(tmp_path: Path) -> None:
    data, out = tmp_path / "loans.csv", tmp_path / "x"
    loans().to_csv(data, index=False)
    command = ["compare", str(data), "--target=approved", "--sensitive=region", f"--out={out}"]
    tiny = ["--seeds=1", "--epochs=1", "--hidden=4", "--jobs=1"]
    tiny.append("--arms=fair_cap_label@1+balance0.5,threshold")
    bad = CliRunner().invoke(app, [*command, *tiny, "--select=best"])
    assert bad.exit_code == 2
    assert "The metrics are" in " ".join(bad.stderr.split())
    assert not out.exists()
    expression = "worst_cell_accuracy, accuracy >= unclipped - 0.02"
    result = CliRunner().invoke(app, [*command, *tiny, f"--select={expression}"])
    assert result.exit_code == 0, result.output
    assert f'Chosen by "{expression}" on the validation' in " ".join(result.stdout.split())
    assert "…" not in result.stdout  # no name is cut short
    assert Settings.read(out / "config.toml").select == expression
    chosen = json.loads((out / "report.json").read_text())["selected"]
    assert chosen == select_arm(pd.read_csv(out / "runs.csv"), expression)
    assert f"unclipped: {chosen}. On the test parts: accuracy " in " ".join(result.stdout.split())
