"""A data set whose items carry their group code."""

from collections.abc import Mapping, Sized
from typing import Any

from torch.utils.data import Dataset

from fairclip.groups._codes import check_codes


def with_groups(dataset: Dataset[Any], codes: Any) -> Dataset[Any]:
    """Return ``dataset`` with each row's group code in its item.

    The item ``(inputs, target)`` becomes ``(inputs, target, code)``, a mapping gets the key
    "groups", and any other item becomes ``(item, code)``. The default collate function makes the
    codes int64 on the CPU.

    Args:
        dataset: A map-style data set of N rows.
        codes: ``(N,)`` integers as from :meth:`GroupEncoder.transform`, -1 for unknown.

    Raises:
        TypeError: If ``dataset`` has no length, or ``codes`` are not integers.
        ValueError: If there is not one code for each row, or one is below -1.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from fairclip.groups import with_groups
        >>> with_groups(TensorDataset(torch.tensor([7, 8]), torch.tensor([0, 1])), [2, -1])[1]
        (tensor(8), tensor(1), -1)
    """
    return _WithGroups(dataset, codes)


class _WithGroups(Dataset[Any]):
    def __init__(self, dataset: Dataset[Any], codes: Any) -> None:
        if not isinstance(dataset, Sized):
            raise TypeError(f"`dataset` must have a length, got {type(dataset).__name__}.")
        self._dataset = dataset
        self._codes = check_codes(codes)
        if len(self._codes) != len(dataset):
            raise ValueError(
                f"`codes` must have one code for each of the {len(dataset)} rows, "
                f"got {len(self._codes)}."
            )

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: int) -> Any:
        item = self._dataset[index]
        code = int(self._codes[index])
        if isinstance(item, Mapping):
            return {**item, "groups": code}
        return (*item, code) if isinstance(item, tuple | list) else (item, code)
