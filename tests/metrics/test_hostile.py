"""Input of every kind ends in a correct report, or in an error of our own that says what to do."""

import csv
import json
import traceback
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import fairclip.metrics
from fairclip.cli import app
from fairclip.metrics import Audit, audit, tradeoff
from tests.metrics._inputs import HOSTILE_NAMES

N = 60
RNG = np.random.default_rng(0)
Y = np.array([0, 1] * (N // 2))
P = np.where(RNG.random(N) < 0.8, Y, 1 - Y)
S = np.round(RNG.random(N), 2)
G = RNG.choice(["a", "b"], N)
OWN_FILES = Path(fairclip.metrics.__file__ or "").parent

LONG = "x" * 10_000
NAMES = [*HOSTILE_NAMES, "שלום עולם", "\u202egnp.exe", "\x1b[31mred\x1b[0m", "two\nlines", LONG]


class Column:
    """What another library's column is to numpy."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._values.astype(dtype or self._values.dtype)

    def __len__(self) -> int:
        return len(self._values)


def cycle(*values: Any) -> "pd.Series[Any]":
    return pd.Series([values[i % len(values)] for i in range(N)], dtype=object)


def first(value: Any, rest: Any) -> list[Any]:
    return [value, *list(rest)[1:]]


def assess(**changes: Any) -> Audit:
    given: dict[str, Any] = {
        "y_true": Y,
        "y_pred": P,
        "sensitive_features": G,
        "n_boot": 9,
    } | changes
    return audit(given.pop("y_true"), given.pop("y_pred"), **given)


WORDS = np.where(Y, "yes", "no")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "columns of one name": (
        {"sensitive_features": pd.DataFrame([[1, 2]] * N, columns=["x", "x"])},
        "have the column 'x' more than once. Rename one.",
    ),
    "names that print alike": (
        {"sensitive_features": pd.DataFrame({1: G, "1": G})},
        "have the column '1' more than once",
    ),
    "everything in one column": (
        {
            "sensitive_features": cycle(
                1, "1", True, None, np.nan, pd.NaT, pd.NA, pd.Timestamp("2020"), Decimal(1), b"x"
            )
        },
        "have no common order. Make them all strings.",
    ),
    "levels that print alike": ({"sensitive_features": cycle(1, "1")}, "that print alike. Rename"),
    "lists as groups": ({"sensitive_features": cycle([1], [2])}, "holds lists, or values of"),
    "dicts as groups": ({"sensitive_features": cycle({"a": 1}, {"a": 2})}, "holds lists, or"),
    "no columns": ({"sensitive_features": pd.DataFrame(index=range(N))}, "at least one column"),
    "no features": ({"sensitive_features": None}, "one value a row, .* got NoneType"),
    "a word": ({"sensitive_features": "sex"}, "one value a row, .* got str"),
    "a block": ({"sensitive_features": np.zeros((N, 2, 2))}, r"got ndarray of shape \(60, 2, 2\)"),
    "columns of two lengths": (
        {"sensitive_features": {"a": G, "b": G[:3]}},
        r"must be columns of one length, got {'a': \(60,\), 'b': \(3,\)}",
    ),
    "too few rows": ({"sensitive_features": G[:3]}, "one value for each of 60 rows, got 3"),
    "nothing known": ({"sensitive_features": [None] * N}, "has no value in any row"),
    "a group each": ({"sensitive_features": np.arange(N)}, "60 values in 60 rows. Name a column"),
    "no rows": ({"y_true": [], "y_pred": [], "sensitive_features": []}, "at least one row"),
    "NaN label": ({"y_true": first(np.nan, Y)}, "`y_true` has 1 missing values. Drop these rows"),
    "NA integer": ({"y_true": pd.array(first(pd.NA, Y), "Int64")}, "`y_true` has 1 missing"),
    "NA boolean": ({"y_true": pd.array(first(pd.NA, Y == 1), "boolean")}, "`y_true` has 1 miss"),
    "NA string": ({"y_true": pd.array(first(pd.NA, WORDS), "string")}, "`y_true` has 1 missing"),
    "NaT label": ({"y_true": first(pd.NaT, Y)}, "`y_true` has 1 missing"),
    "masked label": ({"y_true": np.ma.masked_array(Y, np.arange(N) == 2)}, "`y_true` has 1 miss"),
    "NaN prediction": ({"y_pred": first(np.nan, P)}, "`y_pred` has 1 missing values"),
    "infinite label": ({"y_true": first(np.inf, Y)}, "must be finite, got inf"),
    "infinite prediction": ({"y_pred": first(np.inf, P)}, "must hold values of `y_true`"),
    "labels that print alike": ({"y_true": cycle(0, "0")}, "mixes labels of several types"),
    "numbers and text": ({"y_true": cycle(0, "b")}, "Make them all strings, or all numbers."),
    "text for numbers": ({"y_pred": P.astype(str)}, r"\(0, 1\), got '[01]'"),
    "numbers for text": ({"y_true": Y.astype(str)}, r"\('0', '1'\), got [01]"),
    "labels of lists": ({"y_true": cycle([0], [1])}, "`y_true` must hold labels or numbers"),
    "two columns of labels": ({"y_true": np.stack([Y, Y], 1)}, r"must be a column, got the shape"),
    "a label for all": ({"y_true": "0101"}, "`y_true` must be a column, got str"),
    "no labels": ({"y_true": None}, "`y_true` must be a column, got NoneType"),
    "a set of labels": ({"y_true": {0, 1}}, "`y_true` must be a column, got set"),
    "one class in words": ({"y_true": ["yes"] * N, "y_pred": ["yes"] * N}, "must hold two values"),
    "a new label": ({"y_true": WORDS, "y_pred": ["maybe"] * N}, "got 'maybe'. Scores belong in"),
    "NaN score": ({"y_score": first(np.nan, S)}, "`y_score` has 1 missing values"),
    "infinite score": ({"y_score": first(-np.inf, S)}, "`y_score` must be finite, got -inf"),
    "NA score": ({"y_score": pd.array(first(pd.NA, S), "Float64")}, "`y_score` has 1 missing"),
    "score in words": ({"y_score": ["high"] * N}, "`y_score` must hold numbers, got 'high'"),
    "complex score": ({"y_score": S + 1j}, "`y_score` must hold numbers"),
    "score of dates": ({"y_score": pd.date_range("2020", periods=N)}, "must hold numbers"),
    "two scores": ({"y_score": np.stack([S, S], 1)}, "one column, of the favourable label"),
    "negative weight": ({"sample_weight": -S}, "must be 0 or more, and not 0 in every row"),
    "no weight": ({"sample_weight": np.zeros(N)}, "must be 0 or more, and not 0 in every row"),
    "NaN weight": ({"sample_weight": first(np.nan, S)}, "`sample_weight` has 1 missing"),
    "infinite weight": ({"sample_weight": first(np.inf, S)}, "`sample_weight` must be finite"),
    "huge weights": ({"sample_weight": np.full(N, 1e308)}, "Divide the weights by their mean."),
    "one weight": ({"sample_weight": [1]}, "one value for each of 60 rows, got 1"),
    "favourable in text": ({"favourable": "1"}, r"must be one of \[0, 1\], got '1'"),
    "favourable list": ({"favourable": [1]}, r"must be one of \[0, 1\], got \[1\]"),
    "confidence in words": ({"confidence": "high"}, "`confidence` must be a number"),
    "NaN confidence": ({"confidence": np.nan}, "`confidence` must be between 0 and 1, got nan"),
    "half a draw": ({"n_boot": 10.5}, "`n_boot` must be a whole number"),
    "negative seed": ({"random_state": -1}, "`random_state` must be 0 or more"),
    "unknown reference": ({"reference": 3}, "must be a group that has rows, got 3. There are"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_an_error_of_our_own(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as found:
        assess(**changes)
    assert found.type in {ValueError, TypeError}
    assert found.value.__cause__ is None
    frame = traceback.extract_tb(found.value.__traceback__)[-1]
    assert OWN_FILES in Path(frame.filename).parents
    assert "\n" not in str(found.value)
    assert str(found.value).endswith(".")


HIDDEN = pd.Series(G).where(np.arange(N) > 4)
ACCEPTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "tuple levels": {"sensitive_features": pd.Series(G).map({"a": (1, 2), "b": (2, 3)})},
    "numbers beside text": {"sensitive_features": pd.Series(G).map({"a": 1, "b": "x"})},
    "bytes": {"sensitive_features": pd.Series(G).map({"a": b"x", "b": b"y"})},
    "dates": {"sensitive_features": pd.to_datetime(pd.Series(G).map({"a": "2020", "b": "2021"}))},
    "intervals": {"sensitive_features": pd.cut(np.where(G == "a", 0, 1), [-1, 0, 1])},
    "unused levels": {"sensitive_features": pd.Categorical(G, ["z", "b", "a", "q"])},
    "missing levels": {"sensitive_features": HIDDEN},
    "NA levels": {"sensitive_features": HIDDEN.astype("string")},
    "infinite level": {"sensitive_features": np.where(G == "a", np.inf, 1.0)},
    "empty text": {"sensitive_features": np.where(G == "a", "", "x")},
    "the word nan": {"sensitive_features": pd.Series(np.where(G == "a", "nan", "x"))},
    "columns in two tiers": {"sensitive_features": pd.DataFrame({("f", "x"): G})},
    "a number as name": {"sensitive_features": pd.DataFrame({0: G})},
    "a name of ours": {"sensitive_features": pd.DataFrame({"n": G})},
    "named overall": {"sensitive_features": pd.DataFrame({"overall": G})},
    "another index": {"sensitive_features": pd.Series(G, index=range(N, 0, -1))},
    "arrays of others": {
        "y_true": Column(Y),
        "y_pred": Column(P),
        "sensitive_features": Column(G),
        "y_score": Column(S),
    },
    "sparse": {"sensitive_features": pd.Series(pd.arrays.SparseArray((G == "b").astype(int)))},
    "objects": {"y_true": Y.astype(object), "y_pred": P.astype(object)},
    "booleans": {"y_true": Y == 1, "y_pred": P == 1},
    "nullable": {"y_true": pd.array(Y, "Int64"), "y_pred": pd.array(P == 1, "boolean")},
    "floats beside integers": {"y_true": Y.astype(float), "y_pred": P},
    "integers beside floats": {"y_true": Y, "y_pred": P.astype(np.float16)},
    "categories": {"y_true": pd.Categorical(Y), "y_pred": pd.Categorical(P, [1, 0, 5])},
    "text": {
        "y_true": pd.Series(WORDS, dtype="category"),
        "y_pred": pd.Series(np.where(P, "yes", "no"), dtype="string"),
    },
    "decimals": {"y_true": pd.Series(Y).map(Decimal)},
    "bytes as labels": {"y_true": WORDS.astype("S"), "y_pred": np.where(P, b"yes", b"no")},
    "a column of labels": {"y_true": Y[:, None], "y_pred": pd.DataFrame({"p": P})},
    "favourable of another type": {"favourable": True},
    "huge scores": {"y_score": S * 1e308},
    "scores in text": {"y_score": S.astype(str)},
    "decimal scores": {"y_score": [Decimal(str(score)) for score in S]},
    "one score": {"y_score": np.full(N, 0.5)},
}


@pytest.mark.filterwarnings("ignore:.*lack a sensitive feature")
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_with_the_right_figures_and_a_report(name: str, tmp_path: Path) -> None:
    changes = ACCEPTED[name]
    found = assess(**changes)
    missing = np.ravel(pd.isna(np.asarray(changes.get("sensitive_features", G))))
    groups = [~missing & (group == G) for group in "ab"]
    expected = sorted((rows.sum(), (Y == P)[rows].mean()) for rows in groups)
    rows = found.by_group[["n", "accuracy"]].itertuples(index=False, name=None)
    np.testing.assert_allclose(sorted(rows), expected)
    assert found.overall["tpr"] == pytest.approx(P[Y == 1].mean())
    assert found.settings["n_unknown"] == missing.sum()
    saved = found.save(tmp_path, formats=("json", "csv", "md"))
    assert all(path.exists() for path in saved.values())
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["settings"]["n_rows"] == N


def test_true_and_one_are_one_level() -> None:
    found = assess(sensitive_features=cycle(1, True, 2))
    assert found.by_group["n"].tolist() == [40, 20]


def test_a_group_without_weight_has_no_figures() -> None:
    found = assess(sample_weight=np.where(G == "a", 0, 1))
    assert found.by_group["n"]["a"] == (G == "a").sum()
    assert np.isnan(found.by_group["accuracy"]["a"])
    assert np.isnan(found.gaps["value"]["accuracy_difference"])
    assert found.overall["accuracy"] == pytest.approx((Y == P)[G == "b"].mean())


@pytest.mark.parametrize(
    ("y_true", "y_pred"),
    [([1], [1]), ([0], [1]), ([1] * 9, [1] * 9), ([0] * 9, [0, 1, 1] * 3), ([0, 1] * 9, [0] * 18)],
)
def test_little_to_go_by_is_undefined_and_never_a_guess(
    y_true: list[int], y_pred: list[int], tmp_path: Path
) -> None:
    features = ["a"] if len(y_true) == 1 else (["a", "b", "b"] * 6)[: len(y_true)]
    scores = np.linspace(0.1, 0.9, len(y_true))
    found = audit(y_true, y_pred, sensitive_features=features, y_score=scores, n_boot=9)
    truth, prediction = np.array(y_true), np.array(y_pred)
    for name, label in (("tpr", 1), ("fpr", 0)):
        rows = truth == label
        expected = prediction[rows].mean() if rows.any() else np.nan
        assert found.overall[name] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.overall["auc"]) == (len(set(y_true)) == 1)
    assert found.overall["accuracy"] == (truth == prediction).mean()
    if len(set(y_pred)) == 1:
        assert np.isnan(found.overall["precision"]) == (y_pred[0] == 0)
    found.save(tmp_path)
    same = {"first": y_pred, "second": y_pred}
    paired = tradeoff(same, y_true, sensitive_features=features, baseline="first", n_boot=9)
    changes = paired.changes.xs("overall", level="group")["change"]
    assert (changes.dropna() == 0).all()
    assert np.isnan(changes["second", "tpr"]) == (1 not in y_true)


def many_groups(n_groups: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 20 * n_groups
    y = rng.integers(0, 2, n)
    names = np.array([*NAMES, *(f"region {i}" for i in range(n_groups - len(NAMES)))], dtype=object)
    return pd.DataFrame(
        {
            "y": y,
            "p": np.where(rng.random(n) < 0.7, y, 1 - y),
            "region": np.tile(names, 20),
        }
    )


def test_five_hundred_groups_with_hostile_names(tmp_path: Path) -> None:
    frame = many_groups()
    found = audit(frame["y"], frame["p"], sensitive_features=frame[["region"]], n_boot=9)
    accuracy = (frame["y"] == frame["p"]).groupby(frame["region"]).mean()
    assert found.by_group["accuracy"].to_dict() == pytest.approx(accuracy.to_dict())
    found.save(tmp_path, formats=("json", "csv", "md"))  # 500 pictured groups take a while
    with (tmp_path / "by_group.csv").open(encoding="utf-8", newline="") as file:
        by_group = list(csv.reader(file))
    assert len(by_group) == 501
    assert not [cell for row in by_group for cell in row if cell.startswith(("=", "@"))]


def test_hostile_names_on_a_page(tmp_path: Path) -> None:
    frame = many_groups(len(NAMES))
    found = audit(frame["y"], frame["p"], sensitive_features=frame[["region"]], n_boot=9)
    found.save(tmp_path, formats=("html",))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "שלום עולם" in page


def test_no_control_character_reaches_a_page(tmp_path: Path) -> None:
    found = assess(sensitive_features=np.where(G == "a", "\x1b[31mred\x1b[0m", "\0"))
    found.save(tmp_path, formats=("html", "md"))
    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8").replace("\n", "").isprintable()


@pytest.mark.parametrize("width", [80, 200])
def test_hostile_names_on_a_terminal(tmp_path: Path, width: int) -> None:
    frame = many_groups(len(NAMES))
    frame["p"] = frame["y"].where(frame.index > len(NAMES), 1 - frame["y"])
    frame.to_parquet(tmp_path / "p.parquet")
    command = ["audit", str(tmp_path / "p.parquet"), "--y-true=y", "--y-pred=p", "--n-boot=9"]
    result = CliRunner().invoke(
        app,
        [*command, "--sensitive=region", f"--fail-under=tpr[region={LONG}]=2"],
        env={"COLUMNS": str(width)},
    )
    assert result.exit_code == 1, result.output
    text = result.stdout.replace("\n", "").replace("\u200d", "")
    assert text.isprintable()
    for part in ("=cmd()", "שלום עולם", "👩", "a|b c*d*"):
        assert part in text
    assert max(map(len, result.stdout.splitlines())) <= width + 1  # an emoji is two wide
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 1_100


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("y", ["x" * 50_000, "b", "c\nd"], "must hold two values, got 3"),
        ("sex\x1b[31m", ["a", "b", "b"], "no column `sex`; there are y, p, sex [31m"),
    ],
)
def test_an_error_on_a_terminal_is_one_short_printable_line(
    tmp_path: Path, column: str, values: list[str], message: str
) -> None:
    frame = pd.DataFrame({"y": [0, 1, 1], "p": [0, 1, 1]} | {column: values})
    frame.to_parquet(tmp_path / "p.parquet")
    command = ["audit", str(tmp_path / "p.parquet"), "--y-true=y", "--y-pred=p", "--task=binary"]
    result = CliRunner().invoke(app, [*command, f"--sensitive={'p' if column == 'y' else 'sex'}"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.removesuffix("\n").isprintable()
    assert len(result.stderr) < 1_100
