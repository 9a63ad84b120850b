import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fairclip.comparison._errors import RunError
from fairclip.comparison._settings import Settings
from fairclip.comparison._source import open_source
from fairclip.comparison._split import split, to_inputs
from fairclip.comparison._table import Table, make_table
from fairclip.exceptions import FairclipWarning
from tests.comparison._inputs import loans


def table(frame: pd.DataFrame, **values: object) -> Table:
    chosen = Settings.of({"target": "approved", "sensitive": "region", **values})
    return make_table(*open_source(chosen, frame))


def test_sensitive_columns_are_kept_from_the_model_unless_asked() -> None:
    assert list(table(loans()).features) == ["income", "job"]
    assert list(table(loans(), keep_sensitive=True).features) == ["income", "job", "region"]


def test_positive_makes_a_binary_target() -> None:
    frame = loans().assign(approved=np.tile(["no", "later", "yes"], 200))
    found = table(frame, positive="later")
    assert found.classes == ("not later", "later")
    assert found.y.tolist() == [0, 1, 0] * 200


def test_small_groups_are_pooled() -> None:
    frame = loans().assign(region=["a"] * 4 + ["b"] * 8 + ["c"] * 288 + ["d"] * 300)
    found = table(frame, pool_below=9)
    assert found.sensitive["region"].value_counts().to_dict() == {"d": 300, "c": 288, "other": 12}


def test_a_pooled_group_does_not_join_one_called_other() -> None:
    frame = loans().assign(region=["a"] * 20 + ["other"] * 280 + ["c"] * 300)
    found = table(frame, pool_below=21)
    assert set(found.sensitive["region"]) == {"other", "c", "other (pooled)"}


def test_the_remedy_for_a_small_cell_works() -> None:
    frame = loans().assign(region=["a"] * 4 + ["b"] * 26 + ["c"] * 270 + ["d"] * 300)
    with pytest.raises(ValueError, match=r"The cell 'region=a, y=\d' has \d rows") as raised:
        table(frame)
    found = re.search(r"--pool-below (\d+)", str(raised.value))
    assert found is not None
    table(frame, pool_below=int(found[1]))


def test_rows_without_a_sensitive_value_have_no_cell() -> None:
    frame = loans()
    frame.loc[:49, "region"] = None
    found = table(frame)
    assert (found.cells[:50] == -1).all()
    assert (found.cells[50:] >= 0).all()


@pytest.mark.parametrize(
    ("edit", "values", "message"),
    [
        (lambda f: f, {"target": "price"}, "There is no column `price`"),
        (lambda f: f, {"target": ""}, "Name the column to predict"),
        (lambda f: f, {"sensitive": ""}, "Name the sensitive columns"),
        (lambda f: f, {"sensitive": "region,sex"}, "There is no column `sex`"),
        (lambda f: f, {"drop": "age"}, "There is no column `age`"),
        (lambda f: f, {"drop": "income,job"}, "No feature column is left"),
        (lambda f: f, {"sensitive": "approved"}, "cannot be both"),
        (lambda f: f, {"positive": "maybe"}, "`positive` must be a value"),
        (lambda f: f, {"favourable": "maybe"}, "`favourable` must be one of"),
        (lambda f: f, {"pool_below": 1000}, "Every group has fewer than 1000 rows"),
        (lambda f: f.assign(approved="yes"), {}, "has one class only: yes"),
        (lambda f: f.assign(approved=f["job"]), {}, "has 3 values"),
        (lambda f: f.assign(approved=f["approved"].where(f.index > 2)), {}, "missing in 3 rows"),
        (lambda f: f.assign(region=range(600)), {}, "has 600 different values in 600 rows"),
        (lambda f: f.assign(region="north"), {}, "make fewer than two groups"),
        (lambda f: f.assign(income=np.inf), {}, "`income` has infinite values"),
        (lambda f: f.assign(income=6e302), {}, "`income` has values too large"),
        (lambda f: f.assign(on=pd.Timestamp(0)), {}, "`on` holds dates or durations"),
        (lambda f: f.assign(on=pd.Timedelta(1, "D")), {}, "`on` holds dates or durations"),
        (lambda f: f.iloc[:0], {}, "has no rows"),
        (lambda f: f.rename(columns={"region": "y"}), {"sensitive": "y"}, "cannot be called `y`"),
        (lambda f: pd.concat([f, f[["job"]]], axis=1), {}, "more than one column `job`"),
    ],
)
def test_bad_tables_are_refused(
    edit: Callable[[pd.DataFrame], pd.DataFrame], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        table(edit(loans()), **values)


def test_every_cell_is_in_every_part() -> None:
    found = table(loans())
    for seed in range(3):
        rows = split(found, seed)
        assert sorted(np.concatenate([rows.train, rows.validation, rows.test])) == list(range(600))
        share = np.bincount(found.cells[rows.test]) / np.bincount(found.cells)
        np.testing.assert_allclose(share, 0.2, atol=0.02)
    assert not np.array_equal(split(found, 0).test, split(found, 1).test)


def test_preprocessing_is_learned_from_the_training_part_alone() -> None:
    found = table(loans())
    rows = split(found, 0)
    other = found.features.copy()
    held_back = np.concatenate([rows.validation, rows.test])
    other.loc[held_back, "income"] = 1e6
    other.loc[held_back, "job"] = "astronaut"
    before, after = (to_inputs(frame, rows.train) for frame in (found.features, other))
    assert before.shape == after.shape
    assert before[rows.train].equal(after[rows.train])
    assert before[rows.train, 0].mean().abs() < 1e-6


def test_a_column_of_rare_words_is_named() -> None:
    found = table(loans().assign(id=[f"row {i}" for i in range(600)]))
    with pytest.warns(FairclipWarning, match=r"`id` tells the model nothing.*`drop` it"):
        to_inputs(found.features, split(found, 0).train)


def test_numbers_far_from_those_of_training_are_refused() -> None:
    frame = loans().assign(income=np.arange(600) % 7 * 1e-8)
    rows = split(table(frame), 0)
    frame.loc[rows.test[0], "income"] = 1e38
    with pytest.raises(RunError, match="`income` has values too large"):
        to_inputs(table(frame).features, rows.train)
