from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fairclip.groups import with_groups


class _Items(Dataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ((1, 2), (1, 2, 5)),
        ([1, 2], (1, 2, 5)),
        (1, (1, 5)),
        ({"x": 1}, {"x": 1, "groups": 5}),
        ("text", ("text", 5)),
    ],
)
def test_the_code_is_in_the_item(item: Any, expected: Any) -> None:
    dataset: Any = with_groups(_Items(item), [5])
    assert len(dataset) == 1
    assert dataset[0] == expected


def test_there_must_be_a_code_for_each_row() -> None:
    with pytest.raises(ValueError, match="each of the 3 rows, got 2"):
        with_groups(TensorDataset(torch.zeros(3)), [0, 1])


def test_codes_must_be_integers_from_minus_one_up() -> None:
    with pytest.raises(TypeError, match="float64"):
        with_groups(TensorDataset(torch.zeros(2)), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="got -3"):
        with_groups(TensorDataset(torch.zeros(2)), [0, -3])


def test_a_stream_is_rejected() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(TypeError, match="must have a length, got Stream"):
        with_groups(Stream(), [0])
