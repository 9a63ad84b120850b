import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairclip.exceptions import FairclipWarning
from fairclip.groups import GroupEncoder

PEOPLE = pd.DataFrame(
    {
        "sex": ["female", "male", "female", "male", "female"],
        "race": ["black", "white", "white", "white", "black"],
    },
    index=[10, 11, 12, 13, 14],  # rows are matched by position
)
LABELS = [1, 0, 1, 1, 0]


def test_intersections_worked_by_hand() -> None:
    encoder = GroupEncoder().fit(PEOPLE)
    assert encoder.names_ == [
        "sex=female, race=black",
        "sex=female, race=white",
        "sex=male, race=white",
    ]
    assert encoder.counts_.tolist() == [2, 1, 2]
    assert encoder.strata_.tolist() == [0, 0, 0]
    assert encoder.frame_.to_dict("list") == {
        "sex": ["female", "female", "male"],
        "race": ["black", "white", "white"],
    }
    assert encoder.transform(PEOPLE).tolist() == [0, 2, 1, 2, 0]


def test_tables_of_polars_are_as_those_of_pandas() -> None:
    race = ["black", None, "white", "white", "black"]
    people = pd.DataFrame({"sex": PEOPLE["sex"].tolist(), "race": race})
    table = polars.DataFrame({"sex": PEOPLE["sex"].tolist(), "race": race})
    encoder, expected = GroupEncoder().fit(table), GroupEncoder().fit(people)
    assert encoder.names_ == expected.names_
    with pytest.warns(FairclipWarning, match="1 of 5 rows"):
        assert encoder.transform(table).tolist() == [0, -1, 1, 2, 0]
    assert GroupEncoder().fit(table["sex"]).names_ == ["sex=female", "sex=male"]


def test_cells_worked_by_hand() -> None:
    encoder = GroupEncoder(with_label=True).fit(PEOPLE, LABELS)
    assert encoder.names_ == [
        "sex=female, race=black, y=0",
        "sex=female, race=black, y=1",
        "sex=female, race=white, y=1",
        "sex=male, race=white, y=0",
        "sex=male, race=white, y=1",
    ]
    assert encoder.counts_.tolist() == [1, 1, 1, 1, 1]
    assert encoder.strata_.tolist() == [0, 1, 1, 0, 1]
    assert list(encoder.frame_) == ["sex", "race", "y"]
    assert encoder.transform(PEOPLE, LABELS).tolist() == [1, 3, 2, 4, 0]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1, 2]), st.integers(0, 2)),
        min_size=4,
        max_size=30,
    ),
    order=st.randoms(use_true_random=False),
)
def test_codes_name_the_row_and_do_not_depend_on_the_order(rows: Any, order: Any) -> None:
    rows = [*rows, ("a", 1, 0), ("a", 1, 0)]
    frame = pd.DataFrame(rows, columns=["u", "v", "w"])
    encoder = GroupEncoder(with_label=True).fit(frame[["u", "v"]], frame["w"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairclipWarning)
        codes = encoder.transform(frame[["u", "v"]], frame["w"])
    for (u, v, w), code in zip(rows, codes, strict=True):
        assert (code == -1) == (u is None)
        if u is not None:
            assert encoder.names_[code] == f"u={u}, v={v}, y={w}"
    assert np.bincount(codes[codes >= 0]).tolist() == encoder.counts_.tolist()
    order.shuffle(rows)
    again = pd.DataFrame(rows, columns=["u", "v", "w"])
    assert GroupEncoder(with_label=True).fit(again[["u", "v"]], again["w"]).names_ == encoder.names_


@pytest.mark.parametrize(
    "features",
    [
        ["b", "a", "b"],
        np.array(["b", "a", "b"]),
        np.array(["b", "a", "b"], dtype=object),
        np.array([["b"], ["a"], ["b"]]),
        pd.Series(["b", "a", "b"], index=[5, 6, 7]),
        pd.Series(["b", "a", "b"], dtype="category"),
        pd.Categorical(["b", "a", "b"]),
    ],
    ids=lambda features: type(features).__name__,
)
def test_one_unnamed_column_in_any_form(features: Any) -> None:
    encoder = GroupEncoder().fit(features)
    assert encoder.names_ == ["sensitive_feature_0=a", "sensitive_feature_0=b"]
    assert encoder.transform(features).tolist() == [1, 0, 1]


def test_a_series_keeps_its_name_and_an_array_has_numbered_columns() -> None:
    assert GroupEncoder().fit(pd.Series(["a", "a"], name="sex")).names_ == ["sex=a"]
    encoder = GroupEncoder().fit([("a", 1), ("a", 1), ("a", 2)])
    assert encoder.names_[0] == "sensitive_feature_0=a, sensitive_feature_1=1"


def test_numbers_are_named_alike_whatever_their_type() -> None:
    encoder = GroupEncoder(with_label=True).fit([1.0, 0.5, 1.0], torch.tensor([1.0, 0.0, 1.0]))
    assert encoder.names_ == ["sensitive_feature_0=0.5, y=0", "sensitive_feature_0=1, y=1"]
    assert encoder.transform([1, 1], np.array([1, 1])).tolist() == [1, 1]


def test_levels_are_in_the_order_of_their_texts() -> None:
    assert GroupEncoder().fit([10, 9, 10]).frame_.iloc[:, 0].tolist() == ["10", "9"]


def test_columns_are_found_by_name_and_an_array_by_position() -> None:
    encoder = GroupEncoder().fit(PEOPLE)
    expected = encoder.transform(PEOPLE).tolist()
    assert encoder.transform(PEOPLE[["race", "sex"]]).tolist() == expected
    assert encoder.transform(PEOPLE.to_numpy()).tolist() == expected


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_a_missing_value_is_unknown_and_says_so(missing: Any) -> None:
    features = ["a", missing, "b", "a"]
    encoder = GroupEncoder().fit(features)
    assert encoder.counts_.tolist() == [2, 1]
    with pytest.warns(FairclipWarning, match="1 of 4 rows .* code is -1"):
        assert encoder.transform(features).tolist() == [0, -1, 1, 0]


def test_a_missing_value_that_became_text_is_not_silently_a_group() -> None:
    with pytest.warns(FairclipWarning, match="has the level 'nan', which makes a group of 1 rows"):
        GroupEncoder().fit(np.array(["a", "a", np.nan]))


def test_an_unseen_combination_of_seen_levels_is_unknown() -> None:
    encoder = GroupEncoder().fit(PEOPLE)
    with pytest.warns(FairclipWarning, match="1 of 1 rows"):
        assert encoder.transform([("male", "black")]).tolist() == [-1]


def test_unknown_rows_can_be_a_group_of_their_own() -> None:
    encoder = GroupEncoder(unknown="own").fit(["a", None, "z", "a"])
    assert encoder.frame_.iloc[:, 0].tolist() == ["a", "unknown", "z"]
    assert encoder.counts_.tolist() == [2, 1, 1]
    assert encoder.transform(["z", "new", None]).tolist() == [2, 1, 1]


def test_the_group_of_unknown_rows_exists_for_each_label_even_if_empty() -> None:
    encoder = GroupEncoder(with_label=True, unknown="own").fit(["a", "a", "b"], [0, 1, 1])
    assert encoder.names_[-2:] == [
        "sensitive_feature_0=unknown, y=0",
        "sensitive_feature_0=unknown, y=1",
    ]
    assert encoder.counts_.tolist() == [1, 1, 1, 0, 0]
    assert encoder.strata_.tolist() == [0, 1, 1, 0, 1]
    with pytest.warns(FairclipWarning, match="1 of 3 rows"):  # there is no stratum for label 7
        codes = encoder.transform(["new", None, "a"], [0, 1, 7])
    assert codes.tolist() == [3, 4, -1]


def test_unknown_rows_can_be_an_error() -> None:
    encoder = GroupEncoder(unknown="error")
    with pytest.raises(ValueError, match="Row 1 has a missing value"):
        encoder.fit(["a", None, "a"])
    encoder.fit(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"Row 2 .* sensitive_feature_0=c"):
        encoder.transform(["a", "b", "c"])


def test_no_rows_give_no_codes() -> None:
    codes = GroupEncoder().fit(PEOPLE).transform(PEOPLE.iloc[:0])
    assert codes.shape == (0,)
    assert codes.dtype == np.int64


def test_nothing_is_warned_of_where_nothing_is_unknown() -> None:
    GroupEncoder(with_label=True).fit(PEOPLE, LABELS).transform(PEOPLE, LABELS)


def test_the_input_is_left_alone_and_the_encoder_survives_pickling() -> None:
    before = PEOPLE.copy()
    encoder = GroupEncoder(unknown="own").fit(PEOPLE)
    pd.testing.assert_frame_equal(PEOPLE, before)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.transform(PEOPLE).tolist() == encoder.transform(PEOPLE).tolist()
    assert repr(again) == "GroupEncoder(with_label=False, unknown='own')"


@pytest.mark.parametrize(
    ("features", "y", "message"),
    [
        (pd.DataFrame({"id": [1, 2, 3], "sex": ["a", "b", "a"]}), None, "'id' has another value"),
        (pd.DataFrame({"sex": []}), None, "no rows or no columns"),
        (pd.DataFrame(index=range(3)), None, "no rows or no columns"),
        ([None, None], None, "Every row .* missing"),
        (pd.DataFrame([["a", "b"]] * 2, columns=["s", "s"]), None, "'s' is there twice"),
        (["a", "a"], [1], r"each of the 2 rows of `sensitive_features`, got the shape \(1,\)"),
        (["a", "a"], [[1, 2], [1, 2]], r"got the shape \(2, 2\)"),
        (["a", "a"], [1, None], "`y` has missing values"),
        (["a"] * 60, np.linspace(0, 1, 60), "60 different values, more than 50"),
        (pd.DataFrame({"y": ["a", "a"]}), [0, 1], 'is called "y"'),
    ],
)
def test_bad_columns_are_rejected(features: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupEncoder(with_label=y is not None).fit(features, y)


def test_fifty_labels_are_still_classes() -> None:
    labels = np.arange(100) % 50
    assert len(GroupEncoder(with_label=True).fit(["a"] * 100, labels).names_) == 50


def test_a_label_is_needed_for_cells_and_ignored_otherwise() -> None:
    with pytest.raises(ValueError, match="`y` is needed"):
        GroupEncoder(with_label=True).fit(PEOPLE)
    assert GroupEncoder().fit(PEOPLE, LABELS).names_ == GroupEncoder().fit(PEOPLE).names_


def test_other_columns_than_fit_saw_are_rejected() -> None:
    encoder = GroupEncoder().fit(PEOPLE)
    with pytest.raises(ValueError, match=r"`fit` saw the columns \['sex', 'race'\], got \['sex'\]"):
        encoder.transform(PEOPLE[["sex"]])
    with pytest.raises(ValueError, match=r"saw 2 column\(s\), got 1"):
        encoder.transform(["female"])


def test_transform_needs_fit() -> None:
    with pytest.raises(RuntimeError, match="before `fit`"):
        GroupEncoder().transform(["a"])


def test_an_unknown_policy_is_rejected() -> None:
    with pytest.raises(ValueError, match="`unknown` must be"):
        GroupEncoder(unknown="drop")  # type: ignore[arg-type]


def test_encoding_loads_no_torch() -> None:
    code = (
        "import sys; from fairclip.groups import GroupEncoder; "
        "GroupEncoder().fit(['a', 'a']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
