from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fairclip.datasets import Dataset, make_digits, make_two_concepts

every_set = pytest.mark.parametrize("make", [make_digits, make_two_concepts])


@every_set
def test_they_are_called_synthetic(make: Callable[[], Dataset]) -> None:
    assert make.__doc__ is not None
    data = make()
    assert all(text.startswith("Synthetic") for text in (make.__doc__, data.description))
    assert data.source.startswith("Synthetic")


@every_set
def test_each_call_draws_the_same(make: Callable[[], Dataset]) -> None:
    pd.testing.assert_frame_equal(make().X, make().X)
    pd.testing.assert_series_equal(make().y, make().y)


def test_a_quarter_of_each_digit_is_rotated_and_the_pixels_stay_in_order() -> None:
    data, original = make_digits(), load_digits()
    rotated = (data.X["rotated"] == "yes").to_numpy()
    shares = pd.Series(rotated).groupby(original.target).mean()
    assert shares.between(0.24, 0.26).all()
    images = data.X.drop(columns="rotated").to_numpy().reshape(-1, 8, 8)
    for image, before, turned in zip(images, original.images, rotated, strict=True):
        np.testing.assert_array_equal(image, np.rot90(before) if turned else before)
    assert data.y.tolist() == [int(digit in {8, 9}) for digit in original.target]


def test_one_model_cannot_serve_both_concepts() -> None:
    data = make_two_concepts()
    x, minority = data.X.drop(columns="group"), data.X["group"] == "minority"
    own = {
        group: LogisticRegression().fit(x[rows], data.y[rows])
        for group, rows in (("minority", minority), ("majority", ~minority))
    }
    for group, rows in (("minority", minority), ("majority", ~minority)):
        assert own[group].score(x[rows], data.y[rows]) > 0.88
    assert own["majority"].score(x[minority], data.y[minority]) < 0.4
    angle = np.rad2deg(np.arccos(_cosine(*(model.coef_[0] for model in own.values()))))
    assert angle == pytest.approx(120, abs=5)


def test_the_features_of_two_concepts_tell_no_group() -> None:
    data = make_two_concepts()
    x, minority = data.X.drop(columns="group"), data.X["group"] == "minority"
    assert (x[minority].mean() - x[~minority].mean()).abs().max() < 0.15
    assert (x[minority].std() / x[~minority].std() - 1).abs().max() < 0.1


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
