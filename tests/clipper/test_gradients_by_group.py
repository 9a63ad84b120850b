"""What each group caused, told in the middle of a step: exact, and without changing the step."""

from collections.abc import Callable
from contextlib import ExitStack

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from fairclip import FairClipper, NormCap
from fairclip.clipping import Norm
from tests._as_on_a_device import as_on_a_device
from tests._no_waiting import NoWaiting
from tests.clipper._inputs import COUNTS, Batch, Delta, conv_net, make_batches, mlp, row_losses
from tests.clipper._properties import parts_of

NAMES = ["0", "1", "2", "unknown"]
Parts = dict[str, dict[str, Tensor]]


def wide() -> nn.Sequential:
    """Its large layers are kept as rows, not as sums."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 384), nn.Tanh(), nn.Linear(384, 640), nn.Linear(640, 3))


BUILDS = [mlp, conv_net, Delta, wide]


def same(parts: Parts, expected: Parts, tolerance: float = 1e-9) -> None:
    scale = max(float(t.abs().max()) for part in expected.values() for t in part.values())
    for group, gradients in expected.items():
        for name, gradient in gradients.items():
            assert (parts[group][name] - gradient).abs().max() <= tolerance * scale, (group, name)


def oracle(model: nn.Module, *batches: Batch) -> Parts:
    """By one backward pass a group, and the sum over the windows."""
    names = [name for name, _ in model.named_parameters()]
    found = [parts_of(model, batch) for batch in batches]
    return {
        group: {name: sum(tensors) for name, *tensors in zip(names, *windows, strict=True)}
        for group, *windows in zip(NAMES, *found, strict=True)
    }


def backward(clipper: FairClipper, model: nn.Module, batch: Batch, way: str = "watch") -> None:
    if way == "backward":
        clipper.backward(row_losses(model, batch), batch[2])
    else:
        with clipper.watch(batch[2]):
            row_losses(model, batch).mean().backward()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(("way", "n_windows"), [("watch", 1), ("watch", 2), ("backward", 1)])
@pytest.mark.parametrize("on_device", [False, True])
def test_they_are_those_of_a_backward_pass_a_group(
    build: Callable[[], nn.Module], way: str, n_windows: int, on_device: bool
) -> None:
    model = build().double()
    clipper = FairClipper(model, group_counts=COUNTS)
    batches = make_batches(3 * n_windows, n_rows=24)
    for step in range(3):  # the first teaches the engine, the third is not checked
        windows = batches[step * n_windows : (step + 1) * n_windows]
        model.zero_grad()
        with ExitStack() as stack:
            if on_device:
                stack.enter_context(as_on_a_device())
            for batch in windows:
                backward(clipper, model, batch, way)
            if step == 2:
                stack.enter_context(NoWaiting())
            parts = clipper.gradients_by_group()
        codes = torch.cat([batch[2] for batch in windows])
        groups = {NAMES[code] for code in codes.tolist()}
        assert groups <= parts.keys() <= {*groups, "unknown"}
        assert [*parts] == sorted(parts)
        expected = oracle(model, *windows)
        same(parts, {group: expected[group] for group in parts})
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            total = torch.stack([part[name] for part in parts.values()]).sum(0)
            torch.testing.assert_close(total, parameter.grad, rtol=1e-9, atol=1e-12)
        clipper.clip_grad_()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("n_windows", [1, 2])
@pytest.mark.parametrize("on_device", [False, True])
def test_the_step_after_it_is_the_same_bit_for_bit(
    build: Callable[[], nn.Module], n_windows: int, on_device: bool
) -> None:
    def train(*, look: bool) -> tuple[list[Tensor], pd.DataFrame]:
        model = build().float()
        clipper = FairClipper(model, NormCap.per_step(0.5), Norm(0.5), group_counts=COUNTS)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = iter(make_batches(5 * n_windows, n_rows=24, dtype=torch.float32))
        for _ in range(5):
            for _ in range(n_windows):
                backward(clipper, model, next(batches))
                if look:
                    for gradients in clipper.gradients_by_group().values():
                        for gradient in gradients.values():
                            gradient.fill_(torch.nan)  # they are copies
            clipper.clip_grad_()
            optimizer.step()
            optimizer.zero_grad()
        return [*model.parameters()], clipper.trace.to_frame()

    with ExitStack() as stack:
        if on_device:
            stack.enter_context(as_on_a_device())
        (plain, frame), (looked, frame_of_looked) = train(look=False), train(look=True)
    for one, other in zip(plain, looked, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)
    pd.testing.assert_frame_equal(frame, frame_of_looked, check_exact=True)


@pytest.mark.filterwarnings("ignore:A part of the gradient:fairclip.exceptions.FairclipWarning")
def test_a_penalty_is_of_no_group() -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    batch = make_batches(1)[0]
    codes = batch[2].clamp(min=0)
    with clipper.watch(codes):
        penalty = sum(p.square().sum() for p in model.parameters())
        (row_losses(model, batch).mean() + penalty).backward()
    parts = clipper.gradients_by_group()
    unknown = {name: 2 * p.detach() for name, p in model.named_parameters()}
    expected = oracle(model, (*batch[:2], codes)) | {"unknown": unknown}
    same(parts, {group: expected[group] for group in parts})
    assert "unknown" in parts


def test_a_frozen_parameter_and_one_that_was_not_used_have_none() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.frozen, self.unused = (nn.Linear(4, 4) for _ in range(3))
            self.frozen.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.frozen(self.used(inputs))
            return out

    model = Net().double()
    clipper = FairClipper(model, group_counts=COUNTS)
    backward(clipper, model, make_batches(1)[0])
    for gradients in clipper.gradients_by_group().values():
        assert [*gradients] == ["used.weight", "used.bias"]


def test_a_scaled_loss() -> None:
    model, twin = mlp(), mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper, plain = (FairClipper(m, group_counts=COUNTS) for m in (model, twin))
    batch = make_batches(1)[0]
    backward(plain, twin, batch)
    with clipper.watch(batch[2]):
        scaler.scale(row_losses(model, batch).mean()).backward()
    expected = plain.gradients_by_group()
    same(clipper.gradients_by_group(scaler), expected)
    scaled = {group: {n: t * 2**10 for n, t in part.items()} for group, part in expected.items()}
    same(clipper.gradients_by_group(), scaled)
    clipper.clip_grad_(scaler, optimizer)
    plain.clip_grad_()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=0)


def test_a_scaler_that_is_off_or_has_unscaled() -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS, check=False)
    backward(clipper, model, make_batches(1)[0])
    off = torch.amp.GradScaler("cpu", enabled=False)
    same(clipper.gradients_by_group(off), clipper.gradients_by_group(), tolerance=0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(()))
    scaler.unscale_(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="`scaler` has unscaled"):
        clipper.gradients_by_group(scaler)


def test_it_says_where_there_is_nothing_to_tell() -> None:
    model = mlp()
    clipper = FairClipper(model, group_counts=COUNTS)
    batch = make_batches(1)[0]
    with pytest.raises(RuntimeError, match=r"`gradients_by_group\(\)` needs a forward and backw"):
        clipper.gradients_by_group()
    with clipper.watch(batch[2]):
        row_losses(model, batch).mean().backward()
        with pytest.raises(RuntimeError, match=r"Leave `watch` before `gradients_by_group\(\)`"):
            clipper.gradients_by_group()
    clipper.clip_grad_()
    with pytest.raises(RuntimeError, match="needs a forward and backward pass"):
        clipper.gradients_by_group()
    model.zero_grad()
    clipper.weigh(row_losses(model, batch), batch[2]).mean().backward()
    with pytest.raises(RuntimeError, match="that `weigh` began"):
        clipper.gradients_by_group()
