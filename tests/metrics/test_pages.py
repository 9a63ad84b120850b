import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairclip.metrics import Audit, Picture, Report, Tradeoff, audit, audit_counts, tradeoff
from tests.metrics._inputs import Sample, table_sample

audit_page: Any = import_module("fairclip.metrics._report._audit_page")
tradeoff_page: Any = import_module("fairclip.metrics._report._tradeoff_page")
audit_report, tradeoff_report = audit_page.audit_report, tradeoff_page.tradeoff_report
suppression: Any = import_module("fairclip.metrics._suppress")
suppress, suppress_tradeoff = suppression.suppress, suppression.suppress_tradeoff

_OURS = ["Flags", "In short", "Rows and base rates", "Figures by group", "Gaps", "Thresholds"]
_VERDICT = re.compile(
    r"\b(fair|unfair|discriminat\w*|complian\w*|violat\w*|illegal|lawful|unbiased|debias\w*|"
    r"because|caused|harmful|acceptable|biased)\b",
    re.IGNORECASE,
)


def _sentences(report: Report) -> list[str]:
    found = []
    for section in report.sections:
        for item in section.body:
            found += [item] if isinstance(item, str) else list(getattr(item, "sentences", ()))
    return found


def _names(report: Report, heading: str) -> list[str]:
    section = next(section for section in report.sections if section.heading == heading)
    return [getattr(item, "name", "") for item in section.body if not isinstance(item, str)]


def _common(sample: Sample) -> dict[str, Any]:
    return {"sensitive_features": sample.features, "n_boot": 9}


def _audit(sample: Sample, *, scores: bool = True, **options: Any) -> Audit:
    return audit(
        sample.y_true,
        sample.y_pred,
        y_score=sample.y_score if scores else None,
        **{**_common(sample), **options},
    )


def _tradeoff(n_arms: int = 2, **options: Any) -> Tradeoff:
    sample = table_sample(900)
    cuts = np.linspace(0.45, 0.6, n_arms)
    arms = {f"arm {i}": (sample.y_score > cut).astype(int) for i, cut in enumerate(cuts)}
    return tradeoff(
        arms,
        sample.y_true,
        baseline="arm 0",
        **{**_common(sample), **options},
    )


def test_an_audit_has_its_sections_in_order_and_calibration_and_matched_rates_beside_gaps() -> None:
    report = audit_report(_audit(table_sample(900)), pictures=True)
    assert [section.heading for section in report.sections] == [
        *_OURS,
        "Differences and ratios",
        "Scores",
        "Every figure with its interval",
        "Settings",
        "Limits",
    ]
    beside = [name for name in _names(report, "Gaps") if name]
    assert beside == ["gaps", "worst", "calibration", "matched"]
    assert 3 <= len(report.sections[1].body[1].sentences) <= 6
    captions = [table.caption for table in report.tables()]
    assert "Balanced accuracy, TPR and FPR of each group, with intervals." in captions


def test_a_comparison_has_its_sections_in_order() -> None:
    sample = table_sample(900)
    arms = {"unclipped": sample.y_pred, "cap": (sample.y_score > 0.5).astype(int)}
    scores = dict.fromkeys(arms, sample.y_score)
    found = tradeoff(
        arms, sample.y_true, sensitive_features=sample.features, y_scores=scores, n_boot=9
    )
    report = tradeoff_report(found, pictures=True)
    assert [section.heading for section in report.sections] == [
        "Flags",
        "In short",
        "Models",
        "Rows and base rates",
        "What changed",
        "Gaps",
        "Thresholds",
        "Figures by group",
        "Settings",
        "Limits",
    ]
    beside = [name for name in _names(report, "Gaps") if name]
    assert beside == ["gaps", "worst", "calibration_1", "calibration_2", "matched"]
    assert any(sentence.startswith("On the Pareto front") for sentence in _sentences(report))


def test_a_comparison_shows_baseline_candidate_and_change_of_each_group() -> None:
    report = tradeoff_report(_tradeoff(), pictures=False)
    columns = ["baseline", "candidate", "change", "low", "high"]
    shown = [table for table in report.tables() if list(table.frame.columns) == columns]
    assert [table.name for table in shown] == ["", "", "", "", "changes"]
    assert all("overall" in table.frame.index for table in shown[:-1])


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(lambda: _audit(table_sample(300)), id="scores"),
        pytest.param(lambda: _audit(table_sample(300), scores=False), id="no scores"),
        pytest.param(
            lambda: _audit(
                table_sample(300),
                scores=False,
                sample_weight=np.linspace(0.5, 2, 300),
                metrics=["matthews_corrcoef"],
            ),
            id="weights, named",
        ),
        pytest.param(
            lambda: audit([1], [1], sensitive_features=["a"], y_score=[0.5], n_boot=9), id="one row"
        ),
        pytest.param(
            lambda: audit([0, 1] * 9, [0] * 18, sensitive_features=["a"] * 18, n_boot=9),
            id="one group",
        ),
        pytest.param(
            lambda: audit(
                np.arange(90) % 3,
                np.arange(90) % 4 % 3,
                sensitive_features=np.array(["a", "b"])[np.arange(90) % 2],
                n_boot=9,
            ),
            id="several labels",
        ),
        pytest.param(
            lambda: audit(
                np.arange(60) / 7,
                np.arange(60) / 6,
                sensitive_features=np.array(["a", "b"])[np.arange(60) % 2],
                n_boot=9,
            ),
            id="numbers",
        ),
        pytest.param(lambda: suppress(_audit(table_sample(900)), 10), id="suppressed"),
        pytest.param(lambda: suppress(_audit(table_sample(60)), 1000), id="all suppressed"),
    ],
)
def test_every_kind_of_audit_makes_a_page_without_a_verdict(found: Any, tmp_path: Path) -> None:
    report = audit_report(found(), pictures=True)
    report.save(tmp_path)
    own = [s for s in _sentences(report) if "Kleinberg" not in s]  # a title has the word
    assert [s for s in own if _VERDICT.search(s)] == []
    assert [s for s in own if re.search(r"\bnan\b|<NA>|None\b", s)] == []
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "nan" not in re.findall(r"\w+", text)


@pytest.mark.parametrize("n_arms", [1, 2, 8])
def test_comparisons_of_any_number_of_models(n_arms: int, tmp_path: Path) -> None:
    report = tradeoff_report(_tradeoff(n_arms), pictures=True)
    report.save(tmp_path)
    assert max(map(len, _sentences(report))) < 1200
    assert [s for s in _sentences(report) if "Kleinberg" not in s and _VERDICT.search(s)] == []


def test_no_sentence_is_about_a_hidden_group() -> None:
    rng = np.random.default_rng(0)
    groups = rng.choice(
        ["alpha", "beta", "gamma", "delta", "epsilon"], 600, p=[0.4, 0.3, 0.25, 0.03, 0.02]
    )
    y = rng.integers(0, 2, 600)
    scores = np.clip(0.5 * y + rng.random(600) / 1.5, 0, 1)
    found = audit(
        y, (scores > 0.5).astype(int), sensitive_features={"g": groups}, y_score=scores, n_boot=9
    )
    hidden = suppress(found, 15)
    gone = [str(group) for group in hidden.by_group.index[hidden.by_group["n"].isna()]]
    assert gone
    said = " ".join(_sentences(audit_report(hidden, pictures=False)))
    assert "alpha" in said
    assert not [group for group in gone if group in said]
    arms = {"unclipped": (scores > 0.5).astype(int), "cap": (scores > 0.6).astype(int)}
    both = suppress_tradeoff(tradeoff(arms, y, sensitive_features={"g": groups}, n_boot=9), 15)
    said = " ".join(_sentences(tradeoff_report(both, pictures=False)))
    assert "alpha" in said
    assert not re.search(r"\bnan\b|<NA>|None\b", said)
    assert not [group for group in gone if group in said]


def test_of_500_groups_the_page_says_the_extremes() -> None:
    rng = np.random.default_rng(0)
    groups = {"shop": np.repeat([f"s{k}" for k in range(500)], 20)}
    y = rng.integers(0, 2, 10_000)
    scores = np.clip(0.5 * y + rng.random(10_000) / 1.4, 0, 1)
    found = audit(
        y, (scores > 0.5).astype(int), sensitive_features=groups, y_score=scores, n_boot=9
    )
    report = audit_report(found, pictures=True)
    assert max(map(len, _sentences(report))) < 1200
    assert sum("the other 497 groups lie between" in s for s in _sentences(report)) >= 8
    (sweep,) = [table for table in report.tables() if table.name == "sweep"]
    assert sweep.frame is found.sweep


def test_the_rows_table_has_the_totals_and_the_unknown_rows() -> None:
    sample = table_sample(200)
    features = sample.features[["sex"]].copy()
    features.loc[:19, "sex"] = None
    with pytest.warns(UserWarning, match="20 of 200 rows"):
        found = audit(sample.y_true, sample.y_pred, sensitive_features=features, n_boot=9)
    report = audit_report(found, pictures=False)
    rows = next(table.frame for table in report.tables() if table.name == "rows")
    assert rows.index.tolist() == ["overall", "sex=female", "sex=male", "no group"]
    assert rows["n"].tolist()[0] == 200 == rows["n"].tolist()[1] + rows["n"].tolist()[2] + 20
    assert rows["y=1"]["overall"] == sample.y_true.sum()


def test_own_thresholds_reach_the_page(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[threshold]]\nname = "house"\nsource = "s"\nurl = "u"\ntext_date = 2026-01-01\n'
        'checked = 2026-01-02\nfigure = "accuracy"\ncomparison = "value"\nvalue = 0.01\n',
        encoding="utf-8",
    )
    found = _audit(table_sample(300), sensitive_features=table_sample(300).features[["sex"]])
    report = audit_report(found, pictures=False, thresholds=own)
    (table,) = [table for table in report.tables() if table.name == "thresholds"]
    assert table.frame["word"].tolist() == ["not below", "not below"]
    assert "threshold" in table.caption
    several = tradeoff_report(_tradeoff(), pictures=False, thresholds=own)
    (table,) = [table for table in several.tables() if table.name == "thresholds"]
    assert table.frame.index.names == ["arm", "name", "group"]
    assert set(table.frame.index.unique("name")) == {"house"}
    assert any("arm 1, of 4 groups:" in sentence for sentence in _sentences(several))


def test_pictures_are_drawn_for_html_only() -> None:
    found = _audit(table_sample(300))
    for pictures in (True, False):
        report = audit_report(found, pictures=pictures)
        drawn = [i for s in report.sections for i in s.body if isinstance(i, Picture)]
        assert len(drawn) == (4 if pictures else 0)
        names = {table.name for table in report.tables()}
        assert {"rows", "by_group", "gaps", "worst", "calibration", "matched", "sweep"} <= names
        assert {"thresholds", "disparities", "intervals", "settings"} <= names


def test_tables_of_an_audit_of_counts_are_enough_for_a_page(tmp_path: Path) -> None:
    counts = pd.DataFrame(
        {
            "sex": ["f", "f", "m", "m"],
            "y_true": [0, 1, 0, 1],
            "y_pred": [0, 1, 1, 1],
            "n": [40, 50, 60, 70],
        }
    )
    report = audit_report(audit_counts(counts, n_boot=9), pictures=True)
    report.save(tmp_path)
    assert "Scores" not in [section.heading for section in report.sections]
