"""What a step on a device must not do, told on the CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their result, or its shape, is needed by the host.
_WAITING = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "allclose",
        "bincount",
        "equal",
        "masked_select",
        "nonzero",
        "repeat_interleave",
        "unique_consecutive",
        "unique_dim",
        "unique_dim_consecutive",
    )
}
_INDEXING = {f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_")}


class NoWaiting(TorchDispatchMode):
    """Reject the operators that wait for the device, and indexing by a mask, which counts it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name
        assert name not in _WAITING, func
        if name in _INDEXING:
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), func
        return func(*args, **(kwargs or {}))
