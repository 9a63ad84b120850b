"""Asserts that several tests share."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def assert_same_weights(one: nn.Module, other: nn.Module | Mapping[str, Tensor]) -> None:
    """Every parameter and buffer agrees bit for bit."""
    left = one.state_dict()
    right = other.state_dict() if isinstance(other, nn.Module) else other
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def assert_different_weights(one: nn.Module, other: nn.Module) -> None:
    """At least one parameter or buffer differs."""
    left, right = one.state_dict(), other.state_dict()
    assert any(not torch.equal(value, right[name]) for name, value in left.items())


def assert_same_states(one: Any, other: Any, where: str = "") -> None:
    """Everything in nested states agrees bit for bit, NaN with NaN."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert one.cpu().numpy().tobytes() == other.cpu().numpy().tobytes(), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            assert_same_states(one[name], other[name], f"{where}[{name!r}]")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same_states(left, right, f"{where}[{place}]")
    else:
        assert one == other, where
