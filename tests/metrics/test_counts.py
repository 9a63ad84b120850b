import warnings
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fairclip.metrics import Audit, CellCounts, MetricsWarning, audit, audit_counts
from tests.metrics._inputs import Sample, class_samples, samples, table_sample
from tests.metrics._properties import assert_same_audits

# The rows' order and number are in it.
HASH = ("data_sha256",)


def _audit(sample: Sample, features: pd.DataFrame, n_boot: int = 50) -> Audit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetricsWarning)  # of rows without a group
        return audit(
            sample.y_true,
            sample.y_pred,
            sensitive_features=features,
            task="binary" if sample.y_score.ndim == 1 else "multiclass",
            n_boot=n_boot,
        )


def _audit_counts(counts: Any, task: str, n_boot: int = 50) -> Audit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetricsWarning)
        return audit_counts(counts, task=task, n_boot=n_boot)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.one_of(samples(), class_samples()),
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.sampled_from(["str", "category", "missing"]),
)
def test_counts_of_any_batches_and_shards_give_the_audit_of_the_rows(
    sample: Sample, seed: int, n_shards: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    features = sample.features.astype("category" if kind == "category" else "str")
    if kind == "missing":
        features["sex"] = features["sex"].where(rng.random(len(features)) < 0.8)
        features.loc[0, "sex"] = "female"
    shards = [CellCounts() for _ in range(n_shards)]
    shard = rng.integers(0, n_shards, len(features))
    for batch in np.array_split(rng.permutation(len(features)), int(rng.integers(1, 4))):
        for k in range(n_shards):
            rows = batch[shard[batch] == k]
            if len(rows):
                shards[k].update(
                    sample.y_true[rows],
                    pd.Series(sample.y_pred[rows]),
                    sensitive_features=features.iloc[rows],
                )
    whole = CellCounts()
    for k in rng.permutation(n_shards):
        assert whole.merge(shards[k]) is whole
    frame = whole.to_frame()
    assert frame["n"].sum() == len(features)
    assert not frame.duplicated(["sex", "race", "y_true", "y_pred"]).any()
    expected = _audit(sample, features)
    for counts in (whole, frame.sample(frac=1, random_state=0)):
        assert_same_audits(_audit_counts(counts, expected.settings["task"]), expected, but=HASH)


def test_a_metric_by_name_is_the_same_from_counts() -> None:
    sample = table_sample(300)
    counts = CellCounts().update(sample.y_true, sample.y_pred, sensitive_features=sample.features)
    found = audit_counts(counts, metrics="f1_score", n_boot=50)
    rows = audit(
        sample.y_true,
        sample.y_pred,
        sensitive_features=sample.features,
        metrics="f1_score",
        n_boot=50,
    )
    assert_same_audits(found, rows, but=HASH)
    assert found.overall["f1_score"] == pytest.approx(f1_score(sample.y_true, sample.y_pred))


def test_a_metric_without_weights_cannot_be_had_from_counts() -> None:
    counts = pd.DataFrame({"g": ["a", "b"], "y_true": [0, 1], "y_pred": [0, 1], "n": [5, 6]})
    with pytest.raises(ValueError, match="mine takes no `sample_weight`, which these rows need"):
        audit_counts(counts, metrics={"mine": lambda y_true, y_pred: 0.0})


def _written(folder: Path, missing: Any) -> tuple[Sample, pd.DataFrame]:
    sample = table_sample(2000)
    features = sample.features.assign(age=np.arange(2000) % 3)
    features.loc[features.index % 50 == 0, "race"] = missing
    table = features.assign(y_true=sample.y_true, y_pred=sample.y_pred)
    table.to_parquet(folder / "rows.parquet")
    table.to_csv(folder / "rows.csv", index=False)
    return sample, features


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_file_is_counted_as_its_rows(tmp_path: Path, name: str) -> None:
    sample, features = _written(tmp_path, None)
    columns = ["sex", "race", "age"]
    counts = CellCounts.read(
        tmp_path / name, y_true="y_true", y_pred="y_pred", sensitive_features=columns
    )
    expected = _audit(sample, features)
    assert expected.settings["n_unknown"] == 40
    assert_same_audits(_audit_counts(counts, "auto"), expected, but=HASH)


def test_counts_of_duckdb_over_parquet(tmp_path: Path) -> None:
    sample, features = _written(tmp_path, None)
    query = f"""
        SELECT sex, race, age, y_true, y_pred, COUNT(*) AS n
        FROM '{tmp_path / "rows.parquet"}' GROUP BY ALL
    """
    with duckdb.connect() as connection:
        frame = connection.sql(query).df()
    assert len(frame) < 60
    assert_same_audits(_audit_counts(frame, "auto"), _audit(sample, features), but=HASH)


def test_ten_million_rows_cost_no_more_than_ten() -> None:
    counts = pd.DataFrame(
        {
            "sex": ["f", "f", "f", "f", "m", "m", "m", "m"],
            "y": ["no", "no", "yes", "yes"] * 2,
            "y_hat": ["no", "yes"] * 4,
            "rows": [3e6, 5e5, 4e5, 6e5, 4e6, 6e5, 3e5, 6e5],
        }
    )
    found = audit_counts(counts, y_true="y", y_pred="y_hat", n="rows")
    assert found.settings["n_rows"] == 10_000_000
    assert found.by_group["tpr"].to_dict() == pytest.approx({"f": 0.6, "m": 2 / 3})
    assert found.settings["favourable"] == "yes"
    assert (found.gaps["p"] < 0.001).all()


def test_merging_counts_leaves_the_other_ones_alone() -> None:
    first = CellCounts().update([0, 1], [0, 1], sensitive_features={"g": ["a", "b"]})
    second = CellCounts().update([0, 1], [0, 1], sensitive_features={"g": ["a", "b"]})
    assert CellCounts().merge(first).merge(second).to_frame()["n"].tolist() == [2, 2]
    assert first.merge(CellCounts()).to_frame()["n"].tolist() == [1, 1]
    assert second.to_frame()["n"].tolist() == [1, 1]


def test_labels_that_differ_in_type_only_are_one() -> None:
    counts = CellCounts()
    for labels in ([0, 1], [0.0, 1.0], [False, True]):
        counts.update(labels, labels, sensitive_features={"g": ["a", "b"]})
    found = audit_counts(counts, n_boot=1)
    assert found.settings["labels"] == [0, 1]
    assert found.by_group["n"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": [1, -1]}, "`counts` column 'n' must hold whole numbers of 0 or more"),
        ({"n": [1, 0.5]}, "must hold whole numbers"),
        ({"n": [1, np.nan]}, "must hold whole numbers"),
        ({"n": [1, np.inf]}, "must hold whole numbers"),
        ({"n": ["many", 1]}, "must hold whole numbers"),
        ({"n": [0, 0]}, "is 0 in every row"),
        ({"y_true": [None, 1]}, "`y_true` has 1 missing"),
        ({"y_true": [0.5, 1.5]}, "pass the rows of a regression to `audit`"),
        ({"y_pred": None}, "`counts` must have one column 'y_pred'"),
        ({"g": None}, "`sensitive_features` must have at least one column"),
    ],
)
def test_bad_counts_are_refused(change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {"g": ["a", "b"], "y_true": [0, 1], "y_pred": [0, 1], "n": [5, 6]}
    columns = {name: values for name, values in (columns | change).items() if values is not None}
    with pytest.raises(ValueError, match=message):
        audit_counts(pd.DataFrame(columns))


def test_bad_batches_are_refused() -> None:
    counts = CellCounts().update([0, 1], [0, 1], sensitive_features={"g": ["a", "b"]})
    with pytest.raises(ValueError, match="must have the columns \\['g'\\] as before"):
        counts.update([0], [0], sensitive_features={"h": ["a"]})
    with pytest.raises(ValueError, match="`y_pred` must have one value for each of 2 rows"):
        counts.update([0, 1], [0], sensitive_features={"g": ["a", "b"]})
    with pytest.raises(ValueError, match="`sensitive_features` must have one value"):
        counts.update([0, 1], [0, 1], sensitive_features={"g": ["a"]})
    with pytest.raises(ValueError, match="`y_true` has 1 missing"):
        counts.update([0, None], [0, 1], sensitive_features={"g": ["a", "b"]})
    assert counts.to_frame()["n"].sum() == 2  # what was refused was not counted


def test_no_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="`counts` column 'n' is 0 in every row"):
        audit_counts(CellCounts())
