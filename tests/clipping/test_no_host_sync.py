import pytest
import torch

from fairclip.clipping import Chain, Mode, Norm, Value
from tests._no_waiting import NoWaiting
from tests.clipping._inputs import layers

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
    with NoWaiting():
        mode(named.items())


def test_the_guard_sees_what_it_should() -> None:
    ones = torch.ones(2)
    with NoWaiting():
        with pytest.raises(AssertionError, match="local_scalar_dense"):
            ones.max().item()
        with pytest.raises(AssertionError, match="index"):
            ones[ones > 0]


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
