import re
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from fairclip.metrics import Audit, audit, tradeoff
from tests.metrics._inputs import Sample, samples, table_sample
from tests.metrics._properties import at

sentences: Any = import_module("fairclip.metrics._report._sentences")
score_sentences: Any = import_module("fairclip.metrics._report._score_sentences")
change_sentences: Any = import_module("fairclip.metrics._report._change_sentences").change_sentences
words: Any = import_module("fairclip.metrics._report._words")


def _two_groups(**options: Any) -> Audit:
    """Of 1,000 men with income over 50K 620 are found, of 1,000 women 508."""
    sex = np.repeat(["male", "female"], 1000)
    found = np.concatenate([np.arange(1000) < 620, np.arange(1000) < 508])
    y = np.where(np.arange(2000) < 2000, ">50K", "")
    extra = pd.DataFrame({"sex": ["male", "female"], "y": "<=50K", "p": "<=50K"})
    rows = pd.DataFrame({"sex": sex, "y": y, "p": np.where(found, ">50K", "<=50K")})
    rows = pd.concat([rows, extra])
    return audit(
        rows["y"],
        rows["p"],
        sensitive_features=rows[["sex"]],
        favourable=">50K",
        reference="sex=male",
        **{"n_boot": 99} | options,
    )


def _many_groups(n_groups: int = 9, seed: int = 0) -> Audit:
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{k}" for k in range(n_groups)], 60)
    y = rng.integers(0, 2, len(groups))
    y_pred = np.where(rng.random(len(groups)) < 0.8, y, 1 - y)
    return audit(y, y_pred, sensitive_features={"shop": groups}, n_boot=9)


def test_a_rate_is_said_of_1000_rows_of_each_group_with_the_bounds_of_its_difference() -> None:
    found = _two_groups()
    row = at(found.disparities, "sex=female", "tpr")
    assert row["difference"] == pytest.approx(-0.112)
    low, high = f"{-100 * row['high']:.1f}", f"{-100 * row['low']:.1f}"
    assert sentences.figure_sentences(found, ["tpr"]) == [
        "True positive rate (tpr): of 1,000 rows with label >50K in sex=male, 620 were predicted "
        f">50K; in sex=female 508, 11.2 points lower (between {low} and {high})."
    ]
    assert float(low) == pytest.approx(6.9, abs=0.2)
    assert float(high) == pytest.approx(15.5, abs=0.2)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(samples())
def test_every_number_of_a_sentence_is_the_tables(sample: Sample) -> None:
    found = audit(sample.y_true, sample.y_pred, sensitive_features=sample.features, n_boot=9)
    for metric in ("accuracy", "selection_rate", "fpr"):
        values = sentences.groups_with(found.intervals, metric)["value"].dropna()
        for sentence in sentences.figure_sentences(found, [metric]):
            said = {name: sentence.split(f"“{name}”", 1)[1:] for name in values.index}
            assert any(said.values()) or values.empty
            for name, rest in said.items():
                number_after = re.match(r"(?: \(only [^)]*\))?,? ([\d,]*\d)", "".join(rest))
                assert not rest or number_after
                if number_after:
                    assert number_after[1] == words.per_thousand(values[name]), sentence


def test_of_many_groups_the_extremes_are_named_and_the_others_counted() -> None:
    found = _many_groups()
    values = sentences.groups_with(found.intervals, "accuracy")["value"]
    (sentence,) = sentences.figure_sentences(found, ["accuracy"])
    others = values.drop(index="shop=g0")
    named_groups = set(re.findall(r"shop=g\d", sentence))
    assert named_groups == {"shop=g0", others.idxmin(), others.idxmax()}
    assert "the other 6 groups lie between" in sentence


def test_few_rows_and_no_rows_are_said() -> None:
    y, p = [1, 0, 0, 1, 0], [1, 0, 1, 1, 0]
    found = audit(y, p, sensitive_features={"g": ["a", "a", "a", "a", "b"]}, n_boot=9)
    (tpr,) = sentences.figure_sentences(found, ["tpr"])
    assert "in g=a (only 2 such rows), 1,000 were" in tpr
    assert tpr.endswith("n/a in g=b.")
    alone = audit([1], [1], sensitive_features=["a"], n_boot=9)
    assert sentences.figure_sentences(alone, ["fpr"]) == [
        "False positive rate (fpr): n/a in every group."
    ]
    assert "(only 1 such row)" in sentences.figure_sentences(alone, ["tpr"])[0]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((-0.112, -0.143, -0.081), "11.2 points lower (between 8.1 and 14.3)"),
        ((0.112, 0.081, 0.143), "11.2 points higher (between 8.1 and 14.3)"),
        ((-0.006, -0.016, 0.004), "0.6 points lower (between 1.6 lower and 0.4 higher)"),
        ((0.0, -0.01, 0.02), "the same (between 1.0 lower and 2.0 higher)"),
        ((0.5, np.nan, np.nan), "50.0 points higher"),
        ((0.0002, -0.1, 0.1), "0.02 points higher (between 10.0 lower and 10.0 higher)"),
    ],
)
def test_how_a_difference_is_said(bounds: tuple[float, float, float], said: str) -> None:
    figure = words.figure_of("accuracy", {"labels": [0, 1], "favourable": 1})
    assert sentences.difference_words(figure, *bounds) == said


def test_a_p_is_said_as_a_count_of_data_sets() -> None:
    found = _two_groups(n_boot=999)
    said = dict(zip(found.gaps.index, sentences.gap_sentences(found), strict=True))
    odds = said["equalized_odds_difference"]
    assert "reshuffled within each label, about 1 would show a gap at least this large" in odds
    assert "11.2 points, from 508 of 1,000 rows with label >50K in sex=female to 620" in odds
    assert "within each label" not in said["accuracy_difference"]
    found = _many_groups()
    p = found.gaps["p"]["accuracy_difference"]
    assert 0.1 < p < 1
    assert (
        f"Of 1,000 data sets with the groups reshuffled, about {1000 * p:.0f} would show"
        in sentences.gap_sentences(found)[0]
    )


def test_a_gap_of_one_group_and_an_undefined_one_are_said() -> None:
    alone = audit([0, 1, 1], [0, 1, 0], sensitive_features=["a", "a", "a"], n_boot=9)
    assert "0, for there is one group" in sentences.gap_sentences(alone)[0]
    found = audit([0, 1, 0], [0, 1, 0], sensitive_features=["a", "a", "b"], n_boot=9)
    assert sentences.gap_sentences(found)[2].startswith(
        "equalized_odds_difference: n/a, for a group lacks"
    )


def test_the_worst_group_comes_with_its_bound() -> None:
    found = _many_groups()
    group, cell = sentences.worst_sentences(found)
    row = at(found.worst, "worst_group_accuracy")
    assert f"{words.per_thousand(row['value'])} of 1,000 rows, in {row['name']}." in group
    assert f"no group is below {words.per_thousand(row['bound'])}." in group
    assert "no cell is below" in cell


def test_ratios_are_said_with_bounds() -> None:
    found = _two_groups()
    row = at(found.disparities, "sex=female", "tpr")
    (sentence,) = sentences.ratio_sentences(found, ["tpr"])
    assert f"{row['ratio']:.2f} (between {row['ratio_low']:.2f} and" in sentence
    assert sentence.endswith("in sex=female.")


def test_several_labels_and_numbers_are_said() -> None:
    rng = np.random.default_rng(0)
    groups = {"g": rng.choice(["a", "b"], 300)}
    y = rng.choice(["cat", "dog", "emu"], 300)
    p = np.where(rng.random(300) < 0.7, y, "cat")
    found = audit(y, p, sensitive_features=groups, n_boot=99)
    (tpr,) = sentences.figure_sentences(found, ["tpr[dog]"])
    assert tpr.startswith("True positive rate (tpr[dog]): of 1,000 rows with label dog in g=")
    assert any("of the rows with label" in sentence for sentence in sentences.gap_sentences(found))
    values = rng.normal(100, 20, 300) + 0.5
    numbers = audit(values, values + rng.normal(3, 1, 300), sensitive_features=groups, n_boot=99)
    (bias,) = sentences.figure_sentences(numbers, ["bias"])
    assert "in units of y): in g=" in bias
    assert f"{numbers.by_group['bias']['a']:.3f}" in bias
    (worst,) = sentences.worst_sentences(numbers)
    highest = numbers.by_group["mae"].max()
    assert worst.startswith(f"Highest mae of a group: {highest:.3f}, in g=")
    assert f"no group is above {numbers.worst['bound'].iloc[0]:.3f}." in worst


def test_every_figure_has_words_of_its_own() -> None:
    sample = table_sample(300)
    for found in (
        audit(
            sample.y_true,
            sample.y_pred,
            sensitive_features=sample.features,
            y_score=sample.y_score,
            n_boot=9,
        ),
        audit([0, 1, 2, 0], [0, 1, 1, 0], sensitive_features=["a", "a", "b", "b"], n_boot=9),
        audit([0.5, 1, 2, 0], [0, 1, 1, 0.2], sensitive_features=["a", "a", "b", "b"], n_boot=9),
    ):
        for metric in found.overall.index:
            assert "as its function" not in words.figure_of(metric, found.settings).counts, metric


def test_calibration_names_the_bins_that_are_off() -> None:
    y = np.tile([0, 1, 1, 1], 100)
    scores = np.where(np.arange(400) < 200, 0.75, 0.35)
    found = audit(
        y,
        (scores > 0.5).astype(int),
        sensitive_features={"g": np.where(np.arange(400) < 200, "a", "b")},
        y_score=scores,
        n_boot=9,
    )
    assert found.calibration is not None
    first, second = score_sentences.calibration_sentences(found, found.calibration)
    assert first.startswith("In 1 of 2 bins of groups the mean score is outside")
    assert second.startswith("In g=b furthest in bin 4, where scores are too low: ")
    assert "of 1,000 such rows 750 have label 1" in second


def test_matched_rates_and_cuts_say_the_gaps_of_their_tables() -> None:
    sample = table_sample()
    found = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features[["sex"]],
        y_score=sample.y_score,
        n_boot=9,
    )
    assert found.matched is not None
    assert found.sweep is not None
    tpr = found.matched["tpr"].drop(index="overall")
    said = score_sentences.matched_sentences(found, found.matched)[1]
    assert f"The gap in tpr is then {100 * np.ptp(tpr):.1f} points" in said
    assert f"it is {100 * found.difference()['tpr']:.1f}." in said
    curves = {g: found.sweep.loc[f"sex={g}"]["fpr"].to_numpy() for g in ("female", "male")}
    widest = 100 * np.abs(curves["female"] - curves["male"]).max()
    assert (
        f"the gap in fpr is at most {widest:.1f} points"
        in score_sentences.sweep_sentences(found.sweep)[2]
    )


def test_a_change_is_said_of_both_models_and_of_the_groups() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 800)
    arms = {"unclipped": y, "cap": np.where(rng.random(800) < 0.9, y, 1 - y)}
    groups = rng.choice([f"g{k}" for k in range(8)], 800)
    for features in ({"g": groups}, {"g": np.where(groups < "g4", "a", "b")}):
        found = tradeoff(arms, y, sensitive_features=features, n_boot=9)
        (sentence,) = change_sentences(found, "cap", ("accuracy",))
        row = at(found.changes, "cap", "overall", "accuracy")
        after = words.per_thousand(row["candidate"])
        assert f"1,000 were predicted right by unclipped and {after} by cap: " in sentence
        few = len(set(features["g"])) == 2
        assert ("By group: g=a " in sentence) is few
        groups_below = (at(found.changes, "cap").xs("accuracy", level="metric")["high"] < 0)[1:]
        said = f"Of 8 groups the whole interval is below 0 in {groups_below.sum()} and above 0 in 0"
        assert (said in sentence) is not few


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0"),
        (0.0004, "fewer than 1"),
        (0.62, "620"),
        (0.9996, "more than 999"),
        (1, "1,000"),
        (np.nan, "n/a"),
    ],
)
def test_shares_are_not_rounded_to_none_or_all(share: float, said: str) -> None:
    assert words.per_thousand(share) == said


def test_numbers_have_about_four_digits() -> None:
    values = [0.0, -0.25, 0.00002, 12.3456, 123.456, 123456.7, np.nan, np.inf]
    said = [words.number(value) for value in values]
    assert said == ["0.000", "-0.250", "2e-05", "12.35", "123.5", "123,457", "n/a", "infinity"]


def test_names_are_quoted_and_kept_short() -> None:
    assert words.named("sex=female") == "sex=female"
    assert words.named("sex=a, race=b") == "“sex=a, race=b”"
    assert words.named("a\n b") == "a b"
    assert len(words.named("x" * 10_000)) < 200
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b"]) == "a and b"
    assert words.listed(list("abcde")) == "a, b, c and 2 more"
