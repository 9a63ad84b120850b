"""Models, batches and optimizers of less usual kinds."""

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fairclip.diagnosis import diagnose
from tests.diagnosis._models import Case, by_row, labels, mlp, recurrent
from tests.diagnosis._properties import assert_left_as_it_was, assert_nothing


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def case_of(model: Any = None, optimizer: Any = None) -> Case:
    return Case(model or mlp(13, 32, 5), torch.randn(64, 13), labels(), optimizer=optimizer)


class SAM(torch.optim.Optimizer):
    """Like sharpness-aware optimizers: a closure that is needed, and an optimizer inside."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base.param_groups

    def step(self, closure: Any = None) -> Any:
        assert closure is not None
        loss = closure()
        self.base.step()
        return loss


class Wrapper:
    """Like Lightning's: holds an optimizer and is none."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def test_a_closure_that_is_needed_though_it_has_a_default() -> None:
    case = case_of()
    case.optimizer = SAM(case.model.parameters())
    for _ in range(2):
        case.optimizer.step(lambda: by_row(case.model(case.inputs), case.targets).mean().backward())
    base = case.optimizer.base
    before = [state["momentum_buffer"].clone() for state in base.state.values()]
    with assert_left_as_it_was(case):
        assert case.diagnose().measurements.of("update ratio")
    after = [state["momentum_buffer"] for state in base.state.values()]
    assert all(map(torch.equal, before, after))
    assert base.param_groups is case.optimizer.param_groups


def test_a_step_that_fails_fails() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise RuntimeError(f"planted {closure}")

    case = case_of()
    case.optimizer = Broken(case.model.parameters())
    with assert_left_as_it_was(case), pytest.raises(RuntimeError, match="planted"):
        case.diagnose()


def test_wrapped_optimizers() -> None:
    case = case_of()
    inner: Any = torch.optim.SGD(case.model.parameters(), lr=0.1)
    outer: Any = torch.optim.SGD(case.model.parameters(), lr=0.0)
    outer.optimizer = inner
    case.optimizer = inner
    expected = case.diagnose().measurements.of("update ratio")
    case.optimizer = Wrapper(outer)  # type: ignore[assignment]  # as some trainers pass it
    assert case.diagnose().measurements.of("update ratio") == expected
    case.optimizer = Wrapper(1)  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch\.optim\.Optimizer, got Wr"):
        case.diagnose()


def test_momentum_that_is_no_average() -> None:
    case = case_of()
    case.optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9, dampening=1.0)
    by_row(case.model(case.inputs), case.targets).mean().backward()
    case.optimizer.step()
    assert_nothing(case.diagnose())


def test_lbfgs_at_zero_weights() -> None:
    case = case_of(nn.Linear(13, 5))
    case.optimizer = torch.optim.LBFGS(case.model.parameters(), max_iter=2)

    def closure() -> float:
        assert case.optimizer is not None
        case.optimizer.zero_grad()
        loss = by_row(case.model(case.inputs), case.targets).mean()
        loss.backward()
        return float(loss.detach())

    case.optimizer.step(closure)
    for p in case.model.parameters():
        p.data.zero_()
    assert case.diagnose().measurements.of("direction over gradient")


def test_a_compiled_model_before_its_first_call() -> None:
    case = case_of()
    case.model = torch.compile(case.model, backend="eager")
    assert list(case.diagnose().measurements.of("output gradient norm")) == ["0", "2"]
    inner = mlp(32, 5)
    inner.compile(backend="eager")
    case.model = nn.Sequential(nn.Linear(13, 32), inner)
    assert_nothing(case.diagnose())


class Multiply(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_inputs(layout: Any) -> None:
    dense = torch.randn(64, 13) * (torch.rand(64, 13) < 0.5)
    dense[:, 3] *= 1000
    model = nn.Sequential(Multiply(13, 32), nn.ReLU(), nn.Linear(32, 5))
    found = diagnose(model, (dense.to_sparse(layout=layout), labels()), cross_entropy)
    assert [(f.fault, f.where) for f in found.findings] == [("input scale", "0, feature 3")]
    expected = diagnose(model, (dense, labels()), cross_entropy).measurements
    assert found.measurements.of("input std") == pytest.approx(expected.of("input std"))


def test_inputs_by_name_in_a_mapping_that_is_no_dict() -> None:
    class Named(nn.Linear):
        def forward(self, *, table: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(table)

    inputs: Any = UserDict(table=torch.randn(64, 13))
    assert_nothing(Case(Named(13, 5), inputs, labels()).diagnose())


def test_empty_parameters_and_gradients_without_entries() -> None:
    case = case_of(nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 5)))
    unused = nn.Embedding(9, 5, sparse=True)
    case.model.add_module("unused", unused)
    case.model.register_parameter("empty", nn.Parameter(torch.empty(0)))
    nothing = torch.empty(0, dtype=torch.long)
    case.model.forward = lambda x: (
        case.model[:3](x) + unused(nothing).sum() + case.model.empty.sum()
    )
    assert_nothing(case.diagnose())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("whole", [True, False])
def test_reentrant_checkpoints_are_named(*, whole: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(13, 13), mlp(13, 32, 5)

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.inner, x if whole else self.first(x), use_reentrant=True)

    with pytest.raises((ValueError, RuntimeError), match="use_reentrant=False"):
        case_of(Checkpointed()).diagnose()


@pytest.mark.parametrize("training", [True, False])
def test_recurrent_layers_in_eval_mode_go_without_cudnn(*, training: bool) -> None:
    """CuDNN takes no gradient of them then; elsewhere it is left on."""
    case = recurrent(nn.LSTM)
    case.model.train(training)
    seen: list[bool] = []
    case.model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    case.diagnose()
    assert seen == [training]
    assert torch.backends.cudnn.enabled
