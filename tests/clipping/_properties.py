"""What holds for every clipping mode, whatever the gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fairclip.clipping import ClipRecord, Mode


def gradients(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Return copies of the gradients."""
    return [None if p.grad is None else p.grad.clone() for p in parameters]


def norm_of(parameters: Sequence[Tensor], norm_type: float = 2.0) -> float:
    """Return the norm of all gradients as one vector, in float64."""
    flat = [p.grad.to_dense().double().flatten() for p in parameters if p.grad is not None]
    return float(
        torch.linalg.vector_norm(torch.cat([torch.zeros(1, dtype=torch.float64), *flat]), norm_type)
    )


def assert_equal(actual: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    """The two lists are the same, bit for bit."""
    for a, e in zip(actual, expected, strict=True):
        if a is None or e is None:
            assert a is e
        else:
            assert torch.equal(a, e)


def assert_record_is_true(
    mode: Mode, parameters: Sequence[Tensor], norm_type: float, rtol: float = 1e-5
) -> ClipRecord:
    """The record's norms are those of the gradients before and after, recomputed."""
    before = norm_of(parameters, norm_type)
    record = mode(parameters)
    after = norm_of(parameters, norm_type)
    torch.testing.assert_close(float(record.norm_before), before, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(float(record.norm_after), after, rtol=rtol, atol=1e-12)
    return record


def assert_record_is_detached_scalars(record: ClipRecord) -> None:
    """Every number of the record is a 0-d tensor outside any graph, the shares are in [0, 1]."""
    for tensor in (record.norm_before, record.norm_after, record.threshold, record.share_clipped):
        assert tensor.ndim == 0
        assert not tensor.requires_grad
        assert tensor.is_floating_point()
    assert 0 <= float(record.share_clipped) <= 1
    for stage in record.stages:
        assert_record_is_detached_scalars(stage)


def assert_norm_never_grows(mode: Mode, parameters: Sequence[Tensor]) -> None:
    """No gradient is longer afterwards than before, in any tensor."""
    before = gradients(parameters)
    mode(parameters)
    for old, parameter in zip(before, parameters, strict=True):
        if old is not None:
            assert parameter.grad is not None
            assert bool((parameter.grad.abs() <= old.abs()).all())


def assert_twice_is_once(mode: Mode, parameters: Sequence[Tensor], rtol: float) -> None:
    """Clipping what is clipped changes nothing, up to torch's 1e-6 in the denominator."""
    mode(parameters)
    once = gradients(parameters)
    mode(parameters)
    for a, b in zip(gradients(parameters), once, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=rtol, atol=0)
