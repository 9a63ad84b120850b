from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairclip.clipping import Chain, Mode, Norm, Value
from tests.clipping._inputs import layers

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique", "_unique2")


class RejectWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


MODES: tuple[Mode, ...] = (
    Value(0.5),
    Norm(0.5),
    Norm(0.5, norm_type=1.0),
    Norm(0.5, norm_type=float("inf"), scope="tensor"),
    Norm(0.5, scope="layer", overrides={"embed.*": 0.1, "*.bias": float("inf")}),
    Chain(Value(1.0), Norm(0.5)),
)


@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_no_mode_waits_for_the_device(mode: Mode) -> None:
    named = layers()
    with RejectWaiting():  # type: ignore[no-untyped-call]
        mode(named.items())


def test_the_guard_sees_what_it_should() -> None:
    guard = RejectWaiting()  # type: ignore[no-untyped-call]
    with guard, pytest.raises(AssertionError, match="waits"):
        torch.ones(1).item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_no_mode_waits_for_a_gpu(mode: Mode) -> None:
    named = {name: p.detach().cuda() for name, p in layers().items()}
    for tensor in named.values():
        tensor.grad = torch.ones_like(tensor)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mode(named.items())
    finally:
        torch.cuda.set_sync_debug_mode("default")
