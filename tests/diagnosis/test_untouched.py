"""Model, optimizer, batch and random numbers are left as they were, bit for bit."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fairclip.diagnosis import _learning_rate
from tests.diagnosis._models import HEALTHY, Case, cnn, images, labels, mlp
from tests.diagnosis._properties import assert_left_as_it_was

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "ASGD": torch.optim.ASGD,
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=3),
}


def _train(case: Case) -> None:
    """Take two steps and one more backward pass, so that there is something to keep."""
    optimizer = case.optimizer
    assert optimizer is not None

    def closure() -> float:
        optimizer.zero_grad()
        loss = case.loss_fn(case.model(case.inputs), case.targets).mean()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    optimizer.step(closure)
    closure()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["residual CNN", "LSTM", "transformer"])
def test_nothing_changes(name: str, optimizer: str) -> None:
    torch.manual_seed(0)
    case = HEALTHY[name]()
    case.optimizer = OPTIMIZERS[optimizer](case.model.parameters())
    _train(case)
    with assert_left_as_it_was(case):
        case.diagnose()
    case.model.eval()
    with assert_left_as_it_was(case), torch.no_grad():
        case.diagnose()


def test_a_step_after_it_is_the_step_without_it() -> None:
    def run(*, diagnosed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        case = HEALTHY["transformer"]()
        case.optimizer = OPTIMIZERS["Adam"](case.model.parameters())
        for _ in range(3):
            if diagnosed:
                case.diagnose()
            _train(case)
        return [p.detach() for p in case.model.parameters()]

    for with_it, without in zip(run(diagnosed=True), run(diagnosed=False), strict=True):
        assert torch.equal(with_it, without)


class Remembers(nn.Module):
    """Count calls in an attribute, in lists, in a buffer that is bound anew and in one in place."""

    counted: Tensor
    bound: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.history: list[int] = []
        self.nested: dict[str, list[Tensor]] = {"calls": [], "sums": [torch.zeros(())]}
        self.register_buffer("counted", torch.zeros(()))
        self.register_buffer("bound", torch.zeros(()))
        self.net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(13, 5))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(self.calls)
        self.nested["calls"].append(x)
        self.nested["sums"][0] += 1
        self.counted += 1
        self.bound = self.bound + 1
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        scores: Tensor = self.net(x)
        return scores + noise


def test_what_a_module_remembers_and_draws() -> None:
    torch.manual_seed(0)
    case = Case(Remembers(), torch.randn(64, 13), labels())
    with assert_left_as_it_was(case):
        case.diagnose()
    case.model(case.inputs.clone())
    assert case.model.calls == int(case.model.counted) == int(case.model.bound) == 1
    assert len(case.model.nested["calls"]) == int(case.model.nested["sums"][0]) == 1


@pytest.mark.parametrize("when", ["forward", "loss", "step"])
def test_nothing_changes_when_it_raises(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("planted")

    torch.manual_seed(0)
    case = Case(cnn(), images(), labels())
    case.optimizer = OPTIMIZERS["Adam"](case.model.parameters())
    _train(case)
    handle = None
    if when == "forward":
        handle = list(case.model.children())[-1].register_forward_hook(fail)
    elif when == "loss":
        case.loss_fn = fail
    else:
        step = _learning_rate._step

        def fail_after(*args: Any) -> None:
            step(*args)
            fail()

        monkeypatch.setattr(_learning_rate, "_step", fail_after)
    with assert_left_as_it_was(case), pytest.raises(RuntimeError, match="planted"):
        case.diagnose()
    if handle is not None:
        handle.remove()


def test_hooks_of_the_optimizer_do_not_run() -> None:
    torch.manual_seed(0)
    case = Case(mlp(13, 5), torch.randn(64, 13), labels())
    case.optimizer = torch.optim.SGD(case.model.parameters())
    seen: list[object] = []
    case.optimizer.register_step_pre_hook(lambda *taken: seen.append(taken))
    with assert_left_as_it_was(case):
        case.diagnose()
    assert not seen


class Counting(torch.optim.SGD):
    """Keep its own counts in the parameter groups and in an attribute, as some optimizers do."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        self.param_groups[0]["calls"] = self.calls
        return super().step(closure)


def test_what_an_optimizer_remembers_elsewhere() -> None:
    torch.manual_seed(0)
    case = Case(mlp(13, 5), torch.randn(64, 13), labels())
    case.optimizer = Counting(case.model.parameters())
    with assert_left_as_it_was(case):
        case.diagnose()
    assert case.optimizer.calls == 0
    assert "calls" not in case.optimizer.param_groups[0]


@pytest.mark.parametrize("kind", ["tuple", "dict", "packed"])
def test_batches_of_other_kinds(kind: str) -> None:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 32, batch_first=True), nn.Linear(36, 1)

        def forward(self, sequence: Any, table: Tensor) -> Tensor:
            state = self.lstm(sequence)[1][0][0]
            scores: Tensor = self.head(torch.cat([state, table], 1))
            return scores

    sequence: Any = torch.randn(64, 9, 4)
    if kind == "packed":
        lengths = torch.randint(1, 10, (64,))
        sequence = nn.utils.rnn.pack_padded_sequence(sequence, lengths, True, False)
    inputs: Any = (sequence, torch.randn(64, 4))
    if kind == "dict":
        inputs = {"table": inputs[1], "sequence": inputs[0]}
    case = Case(Model(), inputs, torch.randn(64, 1), mse_loss)
    with assert_left_as_it_was(case):
        diagnosis = case.diagnose()
    assert not diagnosis.findings
    assert diagnosis.measurements.of("rate over time")["lstm"] > 0.25
    assert len(diagnosis.measurements.of("input std")) == 4  # the head also takes the state


def test_no_more_passes_than_are_said() -> None:
    """One, one for the outputs' gradients, and one each for 24 rows at most."""
    torch.manual_seed(0)
    for n_rows in (16, 31, 33, 47, 64):
        seen: list[int] = []
        case = Case(mlp(13, 5), torch.randn(n_rows, 13), labels(n_rows))
        case.model[0].register_forward_hook(
            lambda _module, _taken, given, seen=seen: given.register_hook(seen.append) and None
        )
        table = case.diagnose().measurements
        assert 1 < len(seen) <= 26
        assert 8 <= len(table.of("usual row gradient norm")) <= 16


def test_checkpointed_and_in_place_layers() -> None:
    torch.manual_seed(0)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = mlp(13, 32, 32), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)
            scores: Tensor = self.head(torch.relu_(hidden))
            return scores

    case = Case(Checkpointed(), torch.randn(64, 13), labels())
    norms = case.diagnose().measurements.of("output gradient norm")
    assert list(norms) == ["inner.0", "inner.2", "head"]
