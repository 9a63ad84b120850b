import copy
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.utils.data import DataLoader

from fairclip import FairClipper
from fairclip.clipping import (
    Chain,
    ClipRecord,
    Constant,
    MeanStd,
    Mode,
    Momentum,
    Norm,
    Normalize,
    Percentile,
    Scheduled,
    Smoothness,
    Unitwise,
    Update,
    Value,
    Weights,
    ZScore,
)
from tests._no_waiting import NoWaiting
from tests.clipping._properties import assert_equal

MAX_NORM = 0.5
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: Adam(p, lr=0.1),
}
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def batches(n: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(5, 4, generator=random) for _ in range(n)]


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    loss: Tensor = (model(batch) - 3).square().mean()
    return loss


@dataclass(frozen=True)
class Counting(Mode):
    """Clips to MAX_NORM and remembers the norms that it met and left."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def __call__(self, parameters: Any, state: Any = None) -> ClipRecord:
        record = Norm(MAX_NORM)(parameters, state)
        self.before.append(float(record.norm_before))
        self.after.append(float(record.norm_after))
        return record

    def assert_clipped_once_in_each_of(self, n_steps: int) -> None:
        assert len(self.before) == n_steps
        assert all(norm > 1.01 * MAX_NORM for norm in self.before)  # so none was clipped already
        assert self.after == pytest.approx([MAX_NORM] * n_steps, rel=1e-3)


def by_hand(
    make: Callable[[Any], Optimizer], n_steps: int, n_micro: int = 1, bfloat16: bool = False
) -> nn.Sequential:
    """Train with torch's own call before every step."""
    model = build()
    optimizer = make(model.parameters())
    data = iter(batches(n_steps * n_micro))
    for _ in range(n_steps):
        optimizer.zero_grad()
        for _ in range(n_micro):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = loss_of(model, next(data))
            (loss / n_micro).backward()
        clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
    return model


def assert_same_weights(model: nn.Module, expected: nn.Module) -> None:
    assert_equal(list(model.parameters()), list(expected.parameters()))


# ------------------------------------------------------------------ plain loops


@optimizers
def test_it_clips_before_every_step(make: Callable[[Any], Optimizer]) -> None:
    model = build()
    optimizer = make(model.parameters())
    mode = Counting()
    mode.attach(optimizer)
    for batch in batches(5):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    mode.assert_clipped_once_in_each_of(5)
    assert_same_weights(model, by_hand(make, 5))


@optimizers
@pytest.mark.parametrize("keyword", [False, True])
def test_it_clips_after_the_closure(make: Callable[[Any], Optimizer], keyword: bool) -> None:
    model = build()
    optimizer = make(model.parameters())
    mode = Counting()
    mode.attach(optimizer)
    for batch in batches(5):

        def closure(batch: Tensor = batch) -> float:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return float(loss.detach())

        loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert loss > 0
    mode.assert_clipped_once_in_each_of(5)
    assert_same_weights(model, by_hand(make, 5))


def test_a_closure_of_none_is_none() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1.0)
    Norm(1.0).attach(optimizer)
    for arguments in ({}, {"closure": None}):
        weight.grad = torch.tensor([3.0])
        optimizer.step(**arguments)
    weight.grad = torch.tensor([3.0])
    optimizer.step(None)
    torch.testing.assert_close(weight.detach(), torch.tensor([-3.0]))


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_sees_clipped_gradients_in_every_evaluation(line_search: str | None) -> None:
    def train(clipped_by_hand: bool) -> tuple[nn.Module, Counting, int]:
        model = build()
        optimizer = LBFGS(model.parameters(), max_iter=4, line_search_fn=line_search)
        mode = Counting()
        if not clipped_by_hand:
            mode.attach(optimizer)
        n_evaluations = 0

        def closure() -> Tensor:
            nonlocal n_evaluations
            n_evaluations += 1
            optimizer.zero_grad()
            loss = sum((loss_of(model, batch) for batch in batches(2)), torch.zeros(()))
            loss.backward()
            if clipped_by_hand:
                clip_grad_norm_(model.parameters(), MAX_NORM)
            return loss

        for _ in range(2):
            optimizer.step(closure)
        return model, mode, n_evaluations

    expected, _, _ = train(clipped_by_hand=True)
    model, mode, n_evaluations = train(clipped_by_hand=False)
    assert len(mode.before) == n_evaluations > 2
    assert_same_weights(model, expected)


def test_it_waits_for_the_device_no_more_than_the_step() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], lr=0.1)
    Norm(1.0).attach(optimizer)
    weight.grad = torch.ones(3)
    with NoWaiting():
        optimizer.step()


# ------------------------------------------------------------------ GradScaler

AMP_OPTIMIZERS: dict[str, Callable[[Any, bool], Optimizer]] = {
    "sgd": lambda p, fused: SGD(p, lr=0.1, momentum=0.9, fused=fused),
    "adam": lambda p, fused: Adam(p, lr=0.1, fused=fused),
}
OVERFLOW = 2
"""The step whose gradient is infinite."""


def scaled_steps(
    make: Callable[[Any, bool], Optimizer],
    fused: bool,
    unscale: bool,
    mode: Mode | None,
    by_hand: bool = False,
) -> tuple[nn.Module, Optimizer]:
    """Take four steps with a loss in float16 and a scale of 1024, of which one is skipped."""
    model = build()
    optimizer = make(model.parameters(), fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    if mode is not None:
        mode.attach(optimizer)
    for number, batch in enumerate(batches(4)):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model, batch)
        scaler.scale(loss * (math.inf if number == OVERFLOW else 1.0)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        if by_hand:
            clip_grad_norm_(model.parameters(), MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512.0  # one step was skipped
    return model, optimizer


@pytest.mark.parametrize("make", AMP_OPTIMIZERS.values(), ids=AMP_OPTIMIZERS.keys())
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_grad_scaler_unscales_before_it_clips_and_skips_all_of_a_step(
    make: Callable[[Any, bool], Optimizer], fused: bool, unscale: bool
) -> None:
    expected, optimizer = scaled_steps(make, False, unscale=True, mode=None, by_hand=True)
    ours, attached = scaled_steps(make, fused, unscale, Norm(MAX_NORM))
    exact: Any = {} if fused else {"rtol": 0.0, "atol": 0.0}
    for a, b in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, **exact)
        for key, value in optimizer.state[b].items():
            torch.testing.assert_close(attached.state[a][key], value, **exact)
    unclipped, _ = scaled_steps(make, fused, unscale, mode=None)
    assert not torch.allclose(next(unclipped.parameters()), next(expected.parameters()), rtol=0.01)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_skipped_step_is_not_remembered(fused: bool, unscale: bool) -> None:
    """A fused optimizer is called even then, and skips in its kernel."""
    make = AMP_OPTIMIZERS["adam"]
    mode = Counting()
    scaled_steps(make, fused, unscale, mode)
    unscaled = Counting()
    scaled_steps(make, False, unscale=True, mode=unscaled)
    norms = [norm for norm in mode.before if math.isfinite(norm)]
    assert norms == pytest.approx(unscaled.before, rel=1e-4)
    assert (len(norms), len(mode.before)) == (3, 3 + fused)
    model = build()
    optimizer = make(model.parameters(), fused)
    handle = ZScore(2.0, warmup=2).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for scale in (1.0, 1.0, math.inf, 1.0):
        before = repr(handle.state_dict())
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batches(1)[0]) * scale).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        same = repr(handle.state_dict()) == before
        assert same == (scale == math.inf)


def test_a_fused_step_in_which_some_and_all_parameters_have_no_gradient() -> None:
    used, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Adam([idle, used], lr=0.1, fused=True)
    Norm(1.0).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(used.sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(used.grad, torch.full((2,), 0.5).sqrt())
    scaler.update()
    optimizer.zero_grad()
    scaler.step(optimizer)
    assert idle.detach().tolist() == [1, 1]


# ------------------------------------------------------------------ the handle


def test_two_modes_on_one_optimizer_raise() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1.0, momentum=0.9)
    handle = Norm(1.0).attach(optimizer)
    with pytest.raises(RuntimeError, match=r"Norm\(.*is attached .*as one `Chain`"):
        Norm(2.0).attach(optimizer)
    update = Update(0.5).attach(optimizer)
    Momentum(1.0).attach(optimizer)  # of another kind
    with pytest.raises(RuntimeError, match=r"Update\(max_norm=0.5\) is attached"):
        Update(1.0).attach(optimizer)
    handle.remove()
    update.remove()
    Norm(2.0).attach(optimizer)
    Update(1.0).attach(optimizer)


def test_removing_it_and_leaving_its_context_end_the_clipping() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1.0)

    def step() -> float:
        weight.grad = torch.tensor([3.0])
        before = float(weight.detach())
        optimizer.step()
        return before - float(weight.detach())

    handle = Norm(1.0).attach(optimizer)
    assert handle.record is None
    assert step() == pytest.approx(1)
    assert handle.record is not None
    assert float(handle.record.norm_before) == 3
    handle.remove()
    handle.remove()
    assert step() == pytest.approx(3)
    with Norm(2.0).attach(optimizer), Update(1.5).attach(optimizer):
        assert step() == pytest.approx(1.5)
    assert step() == pytest.approx(3)


def test_what_is_no_optimizer_raises() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer"):
        Norm(1.0).attach(build())  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [Momentum(1.0), Update(1.0), Weights(1.0)], ids=repr)
def test_optimizer_modes_work_nowhere_else(mode: Any) -> None:
    with pytest.raises(TypeError, match="attach"):
        mode(build().parameters())
    with pytest.raises(TypeError, match="takes clipping modes such as"):
        Chain(Norm(1.0), mode)
    with pytest.raises(TypeError, match="`clip` must be a clipping mode"):
        FairClipper(build(), clip=mode, n_groups=2)


def test_a_mode_that_remembers_goes_on_where_it_was() -> None:
    def steps(handle: Any, optimizer: Optimizer, model: nn.Module, data: list[Tensor]) -> list[Any]:
        thresholds = []
        for batch in data:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            thresholds.append(float(handle.record.threshold))
        return thresholds

    model = build()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = ZScore(1.0, warmup=2).attach(optimizer)
    steps(handle, optimizer, model, batches(8)[:5])
    saved = pickle.loads(pickle.dumps([handle.state_dict(), model.state_dict()]))
    expected = steps(handle, optimizer, model, batches(8)[5:])

    other = build()
    fresh = SGD(other.parameters(), lr=0.1)
    resumed = ZScore(1.0, warmup=2).attach(fresh)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    assert steps(resumed, fresh, other, batches(8)[5:]) == expected
    assert all(math.isfinite(threshold) for threshold in expected)


def test_states_of_other_modes_raise() -> None:
    model = build()
    plain = Norm(1.0).attach(SGD(model.parameters(), lr=0.1))
    adaptive = ZScore(1.0).attach(SGD(model.parameters(), lr=0.1))
    assert plain.state_dict() == {}
    plain.load_state_dict({})
    with pytest.raises(ValueError, match="is of another mode"):
        plain.load_state_dict(adaptive.state_dict())
    with pytest.raises(ValueError, match="is of another mode"):
        adaptive.load_state_dict({})


OTHERS = (
    ZScore(),
    ZScore(scope="tensor"),
    MeanStd(),
    Percentile(window=5),
    Percentile(window=6),
    Smoothness(),
    Scheduled(Norm(1.0), Constant(1.0)),
    Scheduled(Smoothness(), Constant(1.0)),
    Chain(Value(1.0), ZScore()),
    Chain(ZScore(), Value(1.0)),
    Chain(Smoothness(), ZScore()),
    Chain(Smoothness(), MeanStd()),
    Chain(Smoothness(), ZScore(), Value(1.0)),
    Chain(Smoothness(), Chain(ZScore())),
    Chain(Smoothness(), Scheduled(Norm(1.0), Constant(1.0))),
)


@pytest.mark.parametrize("mode", OTHERS, ids=repr)
def test_a_state_that_does_not_fit_is_rejected_as_a_whole(mode: Mode) -> None:
    def run(of: Mode, n_steps: int) -> Any:
        model = build()
        optimizer = SGD(model.parameters(), lr=0.1)
        handle = of.attach(optimizer)
        for batch in batches(n_steps):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        return handle

    handle = run(mode, n_steps=2)
    before = str(handle.state_dict())
    for other in OTHERS:
        saved = run(other, n_steps=3).state_dict()
        if other == mode:
            continue
        with pytest.raises(ValueError, match=r"resume with"):
            handle.load_state_dict(saved)
        assert str(handle.state_dict()) == before
    handle.load_state_dict(run(mode, n_steps=3).state_dict())
    assert str(handle.state_dict()) != before


def test_a_parameter_group_that_is_added_is_clipped_too() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = SGD([first], lr=1.0)
    handle = Norm(1.0).attach(optimizer)
    optimizer.add_param_group({"params": [second], "lr": 2.0})
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert handle.record is not None
    assert float(handle.record.norm_before) == 5
    torch.testing.assert_close(first.detach(), torch.tensor([-0.6]))
    torch.testing.assert_close(second.detach(), torch.tensor([-1.6]))


def test_names_come_from_the_optimizer() -> None:
    model = build()
    optimizer = SGD(model.named_parameters(), lr=0.1)
    handle = Norm(MAX_NORM, scope="layer", overrides={"2.bias": 0.1}).attach(optimizer)
    loss_of(model, batches(1)[0]).backward()
    optimizer.step()
    assert handle.record is not None
    assert handle.record.scopes is not None
    assert handle.record.scopes.names == ("0", "2", "2 (2.bias)")
    assert handle.record.parameters == ("0.weight", "0.bias", "2.weight", "2.bias")


@pytest.mark.parametrize(
    "mode",
    [
        Norm(1.0, scope="layer"),
        Norm(1.0, overrides={"2.*": 0.1}),
        Normalize(scope="layer"),
        Unitwise(exclude=("2.*",)),
        Percentile(scope="layer"),
        Chain(Norm(1.0), Norm(1.0, scope="layer")),
        Scheduled(Norm(1.0, scope="layer"), Constant(1.0)),
    ],
    ids=repr,
)
def test_a_mode_that_needs_names_cannot_be_attached_without(mode: Mode) -> None:
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="make the optimizer from it"):
        mode.attach(optimizer)
    Norm(1.0).attach(optimizer)  # so the other one is not
    mode.attach(SGD(model.named_parameters(), lr=0.1))


@pytest.mark.parametrize("mode", [Norm(1.0, overrides={"x.*": 0.1}), Unitwise(exclude=("x.*",))])
def test_a_pattern_that_fits_none_of_the_names_cannot_be_attached(mode: Mode) -> None:
    with pytest.raises(ValueError, match=r"The pattern 'x\.\*' .* applies to no parameter"):
        mode.attach(SGD(build().named_parameters(), lr=0.1))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_the_optimizer_can_still_be_saved_and_copied(
    again: Callable[[Optimizer], Optimizer],
) -> None:
    """torch leaves the hooks out of a copy, so the copy does not clip until a mode is attached."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    handle = Norm(1.0).attach(optimizer)
    Update(10.0).attach(optimizer)
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    optimizer.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-2.5]))  # it goes on clipping

    record = handle.record
    copied = again(optimizer)
    (other,) = copied.param_groups[0]["params"]
    for expected in (-2.5 - 0.75 - 3, -6.25 - (0.5 * 3.75 + 3)):
        other.grad = torch.tensor([3.0])
        copied.step()
        torch.testing.assert_close(other.detach(), torch.tensor([expected]))
    assert handle.record is record
    Norm(1.0).attach(copied)
    copied.step()
    assert float(other.grad) == pytest.approx(1)


# ------------------------------------------------------------------ the trace


@dataclass
class Log:
    """Records, as (what began a step, what was added to it)."""

    steps: list[tuple[ClipRecord, list[ClipRecord]]] = field(default_factory=list)

    def follow(self, optimizer: torch.optim.Optimizer, /) -> None:
        """Take on any."""

    def append(self, record: ClipRecord, /) -> None:
        self.steps.append((record, []))

    def amend(self, record: ClipRecord, /) -> None:
        self.steps[-1][1].append(record)


@pytest.mark.parametrize("clip_first", [False, True])
@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_the_trace_gets_each_record_once_a_step(kind: str, clip_first: bool) -> None:
    model = build()
    optimizer: Optimizer = (
        Adam(model.parameters()) if kind == "adam" else LBFGS(model.parameters(), max_iter=3)
    )
    log = Log()
    after: list[Any] = [Update(1e-3), Weights(0.4)]
    modes: list[Any] = [Norm(MAX_NORM), *after] if clip_first else [*after, Norm(MAX_NORM)]
    handles = [mode.attach(optimizer, trace=log) for mode in modes]
    for batch in batches(3):

        def closure(batch: Tensor = batch) -> float:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
    assert [record.name for record, _ in log.steps] == ["Norm"] * 3
    assert [[each.name for each in added] for _, added in log.steps] == [["Update", "Weights"]] * 3
    last = {record.name: record for record in (log.steps[-1][0], *log.steps[-1][1])}
    for handle in handles:
        assert handle.record is not None
        if kind == "adam" or handle.record.name != "Norm":
            assert handle.record is last[handle.record.name]


def test_with_lbfgs_the_trace_gets_the_gradient_at_the_start_of_the_step() -> None:
    model, log = build(), Log()
    optimizer = LBFGS(model.parameters(), max_iter=3)
    Norm(MAX_NORM).attach(optimizer, trace=log)
    norms: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batches(1)[0])
        loss.backward()
        flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(flat).norm()))
        return loss

    for _ in range(2):
        norms.clear()
        optimizer.step(closure)
        assert len(set(norms)) == len(norms) == 3
        assert float(log.steps[-1][0].norm_before) == pytest.approx(norms[0])


# ------------------------------------------------------------------ Lightning

# Lightning 2.6 compares pytrees in a way that torch 2.13 wants to drop, and wants more workers.
QUIET = (
    "ignore:`isinstance.treespec, LeafSpec.`:FutureWarning",
    "ignore:The 'train_dataloader' does not have many workers",
)


def quiet(test: Callable[..., None]) -> Callable[..., None]:
    """Let Lightning's own warnings pass."""
    for warning in QUIET:
        test = pytest.mark.filterwarnings(warning)(test)
    return test


class Module(LightningModule):  # type: ignore[misc]  # it has no types
    def __init__(self, make: Callable[[Any], Optimizer], mode: Mode, manual: bool) -> None:
        super().__init__()
        self.inner = build()
        self.make, self.mode, self.automatic_optimization = make, mode, not manual

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.make(self.parameters())
        self.mode.attach(optimizer)
        return optimizer

    def training_step(self, batch: Tensor, index: int) -> Tensor:  # noqa: ARG002  Lightning's
        loss = loss_of(self.inner, batch)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss


def fit(module: Module, folder: Path, n_batches: int, **settings: Any) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        max_epochs=1,
        **settings,
    )
    trainer.fit(module, DataLoader(batches(n_batches), batch_size=None))  # type: ignore[arg-type]


@quiet
@optimizers
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("n_micro", [1, 2])
def test_lightning_clips_once_a_step(
    make: Callable[[Any], Optimizer], precision: str, n_micro: int, tmp_path: Path
) -> None:
    mode = Counting()
    module = Module(make, mode, manual=False)
    fit(module, tmp_path, 3 * n_micro, precision=precision, accumulate_grad_batches=n_micro)
    mode.assert_clipped_once_in_each_of(3)
    assert_same_weights(module.inner, by_hand(make, 3, n_micro, precision == "bf16-mixed"))


@quiet
@optimizers
def test_lightning_clips_once_a_step_that_is_taken_by_hand(
    make: Callable[[Any], Optimizer], tmp_path: Path
) -> None:
    mode = Counting()
    module = Module(make, mode, manual=True)
    fit(module, tmp_path, 3)
    mode.assert_clipped_once_in_each_of(3)
    assert_same_weights(module.inner, by_hand(make, 3))


@quiet
def test_lightnings_wrapper_is_looked_through(tmp_path: Path) -> None:
    class Late(Module):
        def configure_optimizers(self) -> Optimizer:
            return self.make(self.parameters())

        def on_train_start(self) -> None:
            optimizer: Any = self.optimizers()
            self.mode.attach(optimizer)

    mode = Counting()
    module = Late(OPTIMIZERS["adam"], mode, manual=False)
    fit(module, tmp_path, 3)
    mode.assert_clipped_once_in_each_of(3)
    assert_same_weights(module.inner, by_hand(OPTIMIZERS["adam"], 3))


# ------------------------------------------------------------------ Accelerate


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Accelerate keeps its settings in classes."""
    yield Accelerator(cpu=True, gradient_accumulation_steps=2)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@optimizers
@pytest.mark.parametrize("prepared_first", [False, True])
def test_accelerate_clips_once_a_step(
    make: Callable[[Any], Optimizer], prepared_first: bool, accelerator: Accelerator
) -> None:
    model = build()
    raw = make(model.parameters())
    mode = Counting()
    if not prepared_first:
        mode.attach(raw)
    prepared_model, optimizer = accelerator.prepare(model, raw)
    if prepared_first:
        mode.attach(optimizer)
    for batch in batches(6):
        with accelerator.accumulate(prepared_model):
            accelerator.backward(loss_of(prepared_model, batch))
            optimizer.step()
            optimizer.zero_grad()
    mode.assert_clipped_once_in_each_of(3)
    assert_same_weights(model, by_hand(make, 3, n_micro=2))


def test_accelerates_wrapper_and_what_it_wraps_are_one(accelerator: Accelerator) -> None:
    model = build()
    raw = SGD(model.parameters(), lr=0.1)
    Norm(1.0).attach(raw)
    with pytest.raises(RuntimeError, match="would clip again"):
        Norm(1.0).attach(accelerator.prepare(raw))
