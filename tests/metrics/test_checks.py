import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from fairclip.metrics import Audit, audit, check
from tests.metrics._inputs import table_sample


@pytest.fixture(scope="module")
def found() -> Audit:
    rows = table_sample()
    return audit(
        rows.y_true, rows.y_pred, sensitive_features=rows.features, y_score=rows.y_score, n_boot=49
    )


@pytest.fixture(scope="module")
def numbers() -> Audit:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 400)
    groups = rng.choice(["a", "b"], 400)
    return audit(truth, truth + rng.normal(0, 1, 400), sensitive_features=groups, n_boot=49)


def with_value(found: Audit, name: str, value: float) -> Audit:
    gaps = found.gaps.copy()
    gaps.loc[name, "value"] = value
    return dataclasses.replace(found, gaps=gaps)


@pytest.mark.parametrize("name", ["accuracy", "auc", "ece"])
def test_a_figure_of_all_rows(found: Audit, name: str) -> None:
    value = found.overall[name]
    for threshold, failed in ((value - 0.01, False), (value + 0.01, True)):
        [under] = check(found, fail_under={name: threshold})
        [over] = check(found, fail_over={name: threshold})
        assert (under.failed, over.failed) == (failed, not failed)
        assert under.value == over.value == value
        assert under.bound is None


def test_every_kind_of_figure_has_a_name(found: Audit, numbers: Audit) -> None:
    group = "sex=female, race=white"
    names = {
        "worst_cell_accuracy": found.worst["value"]["worst_cell_accuracy"],
        "equalized_odds_difference": found.gaps["value"]["equalized_odds_difference"],
        f"tpr[{group}]": found.by_group["tpr"]["female", "white"],
    }
    checks = check(found, fail_over=dict.fromkeys(names, 2.0))
    assert {each.figure: each.value for each in checks} == names
    [regression] = check(numbers, fail_under={"bias": -10})
    assert regression.value == numbers.overall["bias"]


def test_labels_and_groups_in_brackets() -> None:
    y = np.repeat(["cat", "dog", "emu"], 20)
    found = audit(y, y[::-1], sensitive_features=["a", "b"] * 30, n_boot=9)
    names = {"tpr[cat]": found.overall["tpr[cat]"], "tpr[cat][sensitive_feature_0=a]": 0.0}
    assert {each.figure: each.value for each in check(found, fail_under=names)} == names


def test_a_figure_at_its_threshold_is_not_beyond_it(found: Audit) -> None:
    audited = with_value(found, "accuracy_difference", 0.3 - 0.2)
    assert not check(audited, fail_over={"accuracy_difference": 0.1})[0].failed
    assert not check(audited, fail_under={"accuracy_difference": 0.1})[0].failed
    audited = with_value(found, "accuracy_difference", 0.0)
    assert not check(audited, fail_over={"accuracy_difference": 0})[0].failed


def test_what_is_undefined_fails_on_both_sides(found: Audit) -> None:
    audited = with_value(found, "accuracy_difference", math.nan)
    thresholds = {"accuracy_difference": 0.5}
    for each in check(audited, fail_under=thresholds, fail_over=thresholds):
        assert each.failed
        assert "accuracy_difference is n/a (undefined or hidden)" in str(each)
    one_sided = audit([1, 1, 0, 1], [1, 0, 0, 1], sensitive_features=["a", "a", "b", "b"], n_boot=9)
    name = "fpr[sensitive_feature_0=a]"
    for use_bounds in (False, True):
        assert check(one_sided, fail_over={name: 1}, use_bounds=use_bounds)[0].failed


def test_bounds_are_those_of_the_interval(found: Audit, numbers: Audit) -> None:
    low, high = (float(found.intervals[end]["overall", "accuracy"]) for end in ("low", "high"))
    middle = found.overall["accuracy"]
    thresholds = {"accuracy": middle}
    under, over = check(found, fail_under=thresholds, fail_over=thresholds, use_bounds=True)
    assert (under.bound, over.bound) == (low, high)
    assert under.failed
    assert over.failed
    assert not check(found, fail_under={"accuracy": low - 1e-6}, use_bounds=True)[0].failed
    [worst] = check(found, fail_under={"worst_group_accuracy": 0}, use_bounds=True)
    assert worst.bound == found.worst["bound"]["worst_group_accuracy"] < worst.value
    [error] = check(numbers, fail_over={"worst_group_mae": 9}, use_bounds=True)
    assert error.bound == numbers.worst["bound"]["worst_group_mae"]


@pytest.mark.parametrize(
    ("side", "name", "end"),
    [
        ("fail_over", "equalized_odds_difference", "upper"),
        ("fail_under", "ece", "lower"),
        ("fail_over", "worst_group_accuracy", "upper"),
    ],
)
def test_bounds_that_are_not_there_are_no_pass(
    found: Audit, side: str, name: str, end: str
) -> None:
    with pytest.raises(ValueError, match=f"`{name}` has no {end} bound. Check it without"):
        check(found, **{side: {name: 0.5}}, use_bounds=True)


def test_hidden_groups_are_hidden_from_checks() -> None:
    rows = pd.DataFrame({"y": [0, 1] * 22, "g": ["a"] * 20 + ["b"] * 20 + ["c"] * 4})
    found = audit(rows["y"], rows["y"], sensitive_features=rows["g"], n_boot=9)
    names = {"accuracy[g=c]": 0.1, "accuracy": 0.1}
    assert [each.failed for each in check(found, fail_under=names)] == [False, False]
    assert [each.failed for each in check(found.suppress(5), fail_under=names)] == [True, False]


def test_unknown_names_are_answered_with_those_there_are(found: Audit) -> None:
    for name in ("acuracy", "tpr[sex=other]", "overall", ""):
        with pytest.raises(ValueError, match=r"There are: base_rate, accuracy, .*worst_cell_acc"):
            check(found, fail_under={name: 0.5})
    with pytest.raises(ValueError, match=r"of a group, as base_rate\[sex=female, race=black\]"):
        check(found, fail_over={"x": 0.5})


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_thresholds_are_finite(found: Audit, threshold: float) -> None:
    with pytest.raises(ValueError, match="The threshold of `accuracy` must be finite"):
        check(found, fail_under={"accuracy": threshold})


def test_each_check_is_a_plain_line(found: Audit) -> None:
    audited = with_value(found, "accuracy_difference", 0.25)
    failed, held = check(
        audited, fail_under={"accuracy_difference": 0.3}, fail_over={"accuracy_difference": 0.3}
    )
    assert str(failed) == "check failed: accuracy_difference is 0.25: under 0.3"
    assert str(held) == "check holds: accuracy_difference is 0.25: not over 0.3"
    low = float(found.intervals["low"]["overall", "auc"])
    [bound] = check(found, fail_under={"auc": 0.99}, use_bounds=True)
    assert str(bound) == (
        f"check failed: auc is {found.overall['auc']:.6g}, its lower bound {low:.6g}: under 0.99"
    )


def test_a_figure_without_its_usual_bound_fails_and_says_so() -> None:
    perfect = audit([0, 1] * 4, [0, 1] * 4, sensitive_features=list("aaaabbbb"), y_score=[0, 1] * 4)
    (found,) = check(perfect, fail_under={"auc": 0.7}, use_bounds=True)
    assert found.failed
    assert str(found) == "check failed: auc is 1, its lower bound n/a: under 0.7"


def test_equal_groups_have_no_gap_however_their_weights_add_up() -> None:
    y, p = [0, 1, 1, 1, 0] * 2, [0, 1, 0, 1, 1] * 2
    weight = [0.1, 0.2, 0.3, 0.7, 0.1, 0.1, 0.7, 0.3, 0.2, 0.1]
    found = audit(y, p, sensitive_features=list("aaaaabbbbb"), sample_weight=weight, n_boot=9)
    assert found.gaps["value"]["accuracy_difference"] == 0
    assert not check(found, fail_over={"accuracy_difference": 0})[0].failed
