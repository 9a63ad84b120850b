"""From sensitive features to one integer per row: N rows, B rows in a batch, K groups.

A *group* here is a demographic group of rows, never of parameters. :class:`GroupEncoder` turns the
user's columns into codes ``(N,)`` int64 from 0 to K - 1; -1 is an unknown group, whose gradient is
kept and never capped. :class:`GroupBatchSampler` turns codes into batches of row numbers that hold
every group as evenly as possible, and :func:`with_groups` puts each row's code beside its inputs.

Example:
    >>> import numpy as np, torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from fairclip.groups import GroupBatchSampler, GroupEncoder, with_groups
    >>> sex = ["female", "male"] * 4
    >>> groups = GroupEncoder().fit(sex).transform(sex)
    >>> dataset = TensorDataset(torch.arange(8.0), torch.zeros(8))
    >>> loader = DataLoader(
    ...     with_groups(dataset, groups), batch_sampler=GroupBatchSampler(groups, batch_size=4)
    ... )
    >>> for inputs, targets, codes in loader:
    ...     print(codes.sort().values)
    tensor([0, 0, 1, 1])
    tensor([0, 0, 1, 1])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fairclip.groups._encoder import GroupEncoder

if TYPE_CHECKING:
    from fairclip.groups._dataset import with_groups
    from fairclip.groups._sampler import GroupBatchSampler

__all__ = ["GroupEncoder", "GroupBatchSampler", "with_groups"]  # noqa: RUF022  data-flow order

_HOME = {"GroupBatchSampler": "_sampler", "with_groups": "_dataset"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # The encoder needs no torch, and who only encodes should not wait for it.
        if name in _HOME:
            return getattr(import_module(f"fairclip.groups.{_HOME[name]}"), name)
        raise AttributeError(f"module 'fairclip.groups' has no attribute {name!r}")
