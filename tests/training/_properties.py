"""Asserts that several tests share."""

from collections.abc import Mapping

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
