"""Several windows in a step, and everything that can be done in the wrong order."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, NormCap
from fairclip.exceptions import FairclipWarning
from fairclip.trace import StepRecord
from tests.clipper._inputs import (
    COUNTS,
    Batch,
    Delta,
    K,
    conv_net,
    make_batches,
    mlp,
    row_losses,
)
from tests.clipper._properties import assert_close, grads, literal

CAP = NormCap.per_step(0.5)


def make_batch(seed: int, codes: list[int]) -> Batch:
    random = torch.Generator().manual_seed(seed)
    groups = torch.tensor(codes)
    inputs = torch.randn(len(codes), 4, generator=random).double() * (K - groups[:, None])
    return inputs, torch.randint(3, (len(codes),), generator=random), groups


FIRST = make_batch(1, [0, 0, 0, 1, 0, 2, 1, -1, 0, 0])
SECOND = make_batch(2, [1, 1, 2, 0, 1, 1, 1, 1, -1])  # another group is the largest
THIRD = make_batch(3, [0, 2, 2, 0])  # without group 1


def joined(*batches: Batch) -> Batch:
    inputs, targets, codes = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    return inputs, targets, codes


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return row_losses(model, batch).sum() / 20


def watch(clipper: FairClipper, model: nn.Module, batch: Batch) -> None:
    with clipper.watch(batch[2]):
        loss_of(model, batch).backward()


def step(clipper: FairClipper, model: nn.Module, batch: Batch) -> StepRecord:
    watch(clipper, model, batch)
    return clipper.clip_grad_()


def expected_of(model: nn.Module, batch: Batch) -> list[Tensor]:
    """The literal rule with gradients from scratch."""
    _, factors, expected = literal(model, batch)
    assert min(factors) < 1.0  # else nothing is tested
    return [grad * (len(batch[2]) / 20) for grad in expected]


# ------------------------------------------------------------------ accumulation


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST), (FIRST, SECOND, THIRD)])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_windows_add_up_to_one_batch(order: tuple[Batch, ...], scope: str) -> None:
    cap = NormCap(0.5, smoothing=0.0, floor=0.0, scope=scope)
    model, other = mlp(), mlp()
    clipper, whole = (FairClipper(m, cap, group_counts=COUNTS) for m in (model, other))
    for _ in range(2):  # the first step checks itself
        for batch in order:
            watch(clipper, model, batch)
        record, expected = clipper.clip_grad_(), step(whole, other, joined(*order))
        assert_close(grads(model), grads(other))
        torch.testing.assert_close(record.group_norms, expected.group_norms)
        torch.testing.assert_close(record.factors, expected.factors)
        assert record.counts.tolist() == expected.counts.tolist()
        model.zero_grad()
        other.zero_grad()
    if scope == "global":
        step(clipper, model, joined(*order))
        assert_close(grads(model), expected_of(model, joined(*order)))


def test_a_window_may_hold_several_passes() -> None:
    model, other = mlp(), mlp()
    clipper, single = (FairClipper(m, CAP, group_counts=COUNTS) for m in (model, other))
    inputs, targets, codes = FIRST
    again = (inputs.flip(1), targets, codes)
    for _ in range(2):
        with clipper.watch(codes):
            loss = loss_of(model, FIRST)
            loss.backward()
            loss_of(model, again).backward()
        with single.watch(codes):
            (loss_of(other, FIRST) + loss_of(other, again)).backward()
        clipper.clip_grad_()
        single.clip_grad_()
        assert_close(grads(model), grads(other))
        model.zero_grad()
        other.zero_grad()


def test_two_backward_passes_through_one_graph_add_up() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with clipper.watch(FIRST[2]):
        loss = loss_of(model, FIRST)
        (0.25 * loss).backward(retain_graph=True)
        (0.75 * loss).backward()
    clipper.clip_grad_()
    assert_close(grads(model), expected_of(model, FIRST))


def test_micro_batches_are_clipped_on_their_own_and_added() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for _ in range(2):
        expected = [expected_of(model, batch) for batch in (FIRST, SECOND, THIRD)]
        for batch in (FIRST, SECOND, THIRD):
            step(clipper, model, batch)
        assert_close(grads(model), [torch.stack(t).sum(0) for t in zip(*expected, strict=True)])
        model.zero_grad()


def test_micro_batches_of_several_windows() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    expected = [expected_of(model, FIRST), expected_of(model, joined(SECOND, THIRD))]
    step(clipper, model, FIRST)
    watch(clipper, model, SECOND)
    watch(clipper, model, THIRD)
    clipper.clip_grad_()
    assert_close(grads(model), [a + b for a, b in zip(*expected, strict=True)])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_between_windows_drops_what_was_there(set_to_none: bool) -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for first in (FIRST, SECOND):  # with and without the checks of the first step
        watch(clipper, model, first)
        model.zero_grad(set_to_none=set_to_none)
        record = step(clipper, model, THIRD)
        assert record.counts.tolist() == [2, 0, 2]
        assert_close(grads(model), expected_of(model, THIRD))
        model.zero_grad(set_to_none=set_to_none)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_after_a_micro_batch_drops_it_too(set_to_none: bool) -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    step(clipper, model, FIRST)
    watch(clipper, model, SECOND)  # whose loss was found to be NaN, say
    model.zero_grad(set_to_none=set_to_none)
    step(clipper, model, THIRD)
    assert_close(grads(model), expected_of(model, THIRD))


def test_zero_grad_after_a_step_that_raised_drops_the_micro_batch_before() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS, on_nonfinite="raise")
    step(clipper, model, FIRST)
    bad = (SECOND[0] * torch.nan, *SECOND[1:])
    watch(clipper, model, bad)
    with pytest.raises(RuntimeError, match="not finite"):
        clipper.clip_grad_()
    model.zero_grad()
    step(clipper, model, THIRD)
    assert_close(grads(model), expected_of(model, THIRD))


@pytest.mark.parametrize("how", ["watch", "backward"])
def test_one_gradient_tensor_of_two_parameters_accumulates(how: str) -> None:
    model = Delta().double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    batches = (FIRST, SECOND, FIRST)
    for batch in batches:
        if how == "watch":
            watch(clipper, model, batch)
        else:
            clipper.backward(row_losses(model, batch) * (len(batch[2]) / 20), batch[2])
    clipper.clip_grad_()
    assert_close(grads(model), expected_of(model, joined(*batches)))


def test_a_parameter_that_a_step_does_not_use_is_left_out() -> None:
    """Its `.grad` is zeros with set_to_none=False, and that is no reason to run anything again."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 6)
            self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
            self.chosen = 0

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.heads[self.chosen](torch.tanh(self.shared(inputs)))
            return logits

    torch.manual_seed(0)
    model = Branches().double()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    for number, chosen in enumerate((0, 1, 0, 1, 0, 1)):
        model.chosen = chosen
        with warnings.catch_warnings():
            if number < 4:  # the first steps of the second head may say so, and go uncapped
                warnings.filterwarnings("ignore", ".*no step before")
            step(clipper, model, FIRST)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        if number in (0, 4, 5):
            assert_close(found, expected_of(model, FIRST))
        model.zero_grad(set_to_none=False)


# ------------------------------------------------------------------ wrong order


def test_clip_grad_needs_a_window() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with pytest.raises(RuntimeError, match=r"watch\(groups\)"):
        clipper.clip_grad_()
    loss_of(model, FIRST).backward()
    with pytest.raises(RuntimeError, match=r"watch\(groups\)"):
        clipper.clip_grad_()
    model.zero_grad()
    step(clipper, model, FIRST)
    with pytest.raises(RuntimeError, match=r"watch\(groups\)"):
        clipper.clip_grad_()
    model.zero_grad()
    with clipper.watch(FIRST[2]):
        loss_of(model, FIRST).backward()
        with pytest.raises(RuntimeError, match="Leave `watch`"):
            clipper.clip_grad_()
    clipper.clip_grad_()
    assert_close(grads(model), expected_of(model, FIRST))


def assert_usable(clipper: FairClipper, model: nn.Module) -> None:
    model.zero_grad()
    step(clipper, model, FIRST)
    assert_close(grads(model), expected_of(model, FIRST))


def test_a_window_needs_a_backward_pass() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with (
        pytest.raises(RuntimeError, match=r"No backward pass.*loss\.backward"),
        clipper.watch(FIRST[2]),
    ):
        loss = loss_of(model, FIRST)
    loss.backward()  # too late
    model.zero_grad()
    with pytest.raises(RuntimeError, match="No backward pass"), clipper.watch(FIRST[2]):
        pass
    assert_usable(clipper, model)


def test_a_window_needs_the_forward_pass() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    loss = loss_of(model, FIRST)
    with (
        pytest.raises(RuntimeError, match="No forward pass"),
        clipper.watch(FIRST[2]),
    ):
        loss.backward()
    assert_usable(clipper, model)


def test_a_part_of_the_forward_pass_outside_is_said() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    hidden = model[1](model[0](FIRST[0]))
    with pytest.warns(FairclipWarning, match=r"'0\.weight', '0\.bias'"), clipper.watch(FIRST[2]):
        functional.cross_entropy(model[2](hidden), FIRST[1]).backward()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, foreach=False),
    "adam_fused": lambda p: torch.optim.Adam(p, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, foreach=False),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, foreach=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_forgotten_zero_grad_is_found(name: str) -> None:
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    step(clipper, model, FIRST)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"optimizer\.zero_grad\(\)"):
        watch(clipper, model, SECOND)
    assert_usable(clipper, model)


def test_a_gradient_from_before_is_found() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    loss_of(model, FIRST).backward()
    with pytest.raises(RuntimeError, match="not zero"):
        watch(clipper, model, SECOND)
    assert_usable(clipper, model)


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "pending"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_a_gradient_that_was_replaced_between_windows_is_found(settled: bool, kept: bool) -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    watch(clipper, model, FIRST)
    if settled:
        clipper.clip_grad_()
    held = grads(model) if kept else []  # as of a user who looks at them later
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad = parameter.grad.clone()
    with pytest.raises(RuntimeError, match="not zero"):
        watch(clipper, model, SECOND)
    assert len(held) in (0, 4)


@pytest.mark.parametrize("unscaled_by_user", [True, False])
def test_a_gradient_that_was_changed_before_clip_grad_is_found(unscaled_by_user: bool) -> None:
    """A habit from plain loops: `scaler.unscale_(optimizer)` comes before the clipping line."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with clipper.watch(FIRST[2]):
        scaler.scale(loss_of(model, FIRST)).backward()
    if unscaled_by_user:
        scaler.unscale_(optimizer)
    else:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.raises(RuntimeError, match="was changed between the backward pass"):
        clipper.clip_grad_()


def test_a_removed_clipper_is_refused() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    watch(clipper, model, FIRST)
    clipper.clip_grad_()
    model.zero_grad()
    clipper.remove()
    with pytest.raises(RuntimeError, match=r"removed.*new clipper"):
        watch(clipper, model, FIRST)


def test_windows_do_not_nest() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with (
        pytest.raises(RuntimeError, match="nested"),
        clipper.watch(FIRST[2]),
        clipper.watch(FIRST[2]),
    ):
        pass
    assert_usable(clipper, model)


@pytest.mark.parametrize("after_backward", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_an_error_inside_a_window_leaves_a_usable_clipper(
    after_backward: bool, first: bool
) -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    if not first:
        assert_usable(clipper, model)
        model.zero_grad()

    def fails() -> None:
        loss = loss_of(model, SECOND)
        if after_backward:
            loss.backward()
        raise KeyError("the user's")

    with pytest.raises(KeyError), clipper.watch(SECOND[2]):
        fails()
    with pytest.raises(RuntimeError, match=r"watch\(groups\)"):
        clipper.clip_grad_()
    if after_backward:
        with pytest.raises(RuntimeError, match="not zero"):
            watch(clipper, model, FIRST)
    assert_usable(clipper, model)


def test_an_error_in_a_later_window_keeps_the_micro_batch_before() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    step(clipper, model, FIRST)
    with pytest.raises(KeyError), clipper.watch(SECOND[2]):
        raise KeyError("the user's")
    assert_close(grads(model), expected_of(model, FIRST))


def test_backward_that_fails_leaves_a_usable_clipper() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    losses = row_losses(model, FIRST)
    with pytest.raises(ValueError, match="reduction='none'"):
        clipper.backward(losses.mean(), FIRST[2])
    with pytest.raises(RuntimeError, match="grad"):
        clipper.backward(losses.detach(), FIRST[2])
    assert_usable(clipper, model)


def test_backward_and_watch_accumulate() -> None:
    for backward_first in (True, False):
        model = mlp()
        clipper = FairClipper(model, CAP, group_counts=COUNTS)

        def slowly(model: nn.Module = model, clipper: FairClipper = clipper) -> None:
            clipper.backward(row_losses(model, FIRST) * len(FIRST[2]) / 20, FIRST[2])

        if backward_first:
            slowly()
        watch(clipper, model, SECOND)
        if not backward_first:
            slowly()
        clipper.clip_grad_()
        assert_close(grads(model), expected_of(model, joined(FIRST, SECOND)))


# ------------------------------------------------------------------ bad codes

BAD_CODES: dict[str, tuple[Any, Any, str]] = {
    "too few": ([0, 1, 2], ValueError, "3 codes"),
    "too many": ([0] * 20, ValueError, "20 codes"),
    "one": ([0], ValueError, "1 code"),
    "float": (FIRST[2].double(), TypeError, r"float64.*GroupEncoder"),
    "float array": (FIRST[2].numpy().astype(float), TypeError, "float64"),
    "bool": (FIRST[2] > 0, TypeError, "bool"),
    "complex": (FIRST[2].to(torch.complex64), TypeError, "complex64"),
    "2-D": (FIRST[2][:, None], ValueError, r"\(10, 1\)"),
    "0-D": (torch.tensor(1), ValueError, r"\(\)"),
    "empty": (torch.tensor([], dtype=torch.int64), ValueError, r"\(0,\)"),
    "empty list": ([], ValueError, r"\(0,\)"),
    "too large": (FIRST[2] + 1, ValueError, r"-1\.\.2, got 0\.\.3"),
    "too small": (FIRST[2] - 1, ValueError, r"-1\.\.2, got -2\.\.1"),
    "names": (["f"] * 10, TypeError, r"integer codes.*GroupEncoder"),
    "array of names": (np.array(["f"] * 10), TypeError, r"integer codes.*GroupEncoder"),
    "objects": (np.array(["f"] * 10, object), TypeError, r"integer codes.*GroupEncoder"),
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("name", BAD_CODES)
def test_bad_codes_are_refused(name: str, first: bool) -> None:
    codes, error, message = BAD_CODES[name]
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    if not first:
        assert_usable(clipper, model)
        model.zero_grad()
    with pytest.raises(error, match=message), clipper.watch(codes):
        loss_of(model, FIRST).backward()
    assert_usable(clipper, model)


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.int, torch.Tensor.tolist], ids=str)
def test_codes_of_any_integer_kind_are_taken(kind: Callable[[Tensor], Any]) -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    with clipper.watch(kind(FIRST[2])):
        loss_of(model, FIRST).backward()
    clipper.clip_grad_()
    assert_close(grads(model), expected_of(model, FIRST))


@pytest.mark.parametrize("how", ["watch", "weigh"])
def test_an_optimizer_that_steps_before_the_clip_is_noticed(how: str) -> None:
    model = mlp()
    clipper = FairClipper(model, NormCap(0.5), group_counts=COUNTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = torch.optim.SGD(conv_net().parameters(), lr=0.1)

    def backward(batch: Batch) -> None:
        if how == "weigh":
            clipper.weigh(row_losses(model, batch), batch[2]).mean().backward()
        else:
            with clipper.watch(batch[2]):
                row_losses(model, batch).mean().backward()

    def forgotten(batch: Batch, *, late: bool) -> None:
        if late:
            clipper.clip_grad_()
        else:
            optimizer.zero_grad()
            backward(batch)

    for late in (True, False):
        first, second, third = make_batches(3)
        backward(first)
        other.step()  # of another model
        backward(second)
        optimizer.step()
        with pytest.raises(RuntimeError, match=r"before `clip_grad_\(\)`.*before `optimizer\.st"):
            forgotten(third, late=late)
        model.zero_grad()
        backward(third)
        assert clipper.clip_grad_().counts.sum() > 0
        model.zero_grad()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cap": 2.0}, r"`cap` must be a cap such as NormCap"),
        ({"clip": 1.0}, r"`clip` must be a clipping mode"),
        ({"measure_every": True}, r"`measure_every` must be a number"),
    ],
)
def test_options_of_the_wrong_kind(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FairClipper(mlp(), group_counts=COUNTS, **wrong)


def test_a_scaler_in_the_place_of_the_optimizer() -> None:
    model = mlp()
    clipper = FairClipper(model, CAP, group_counts=COUNTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="must be a GradScaler, got SGD"):
        clipper.clip_grad_(optimizer, torch.amp.GradScaler("cpu"))  # type: ignore[arg-type]
