"""Lagged steps of compiled models against those of the same model uncompiled."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tests.clipper._inputs import EVERY, lagged, make_batches, row_losses
from tests.clipper._properties import assert_close, grads, is_measured, parts_of, warm
from tests.clipper._properties import weighed_step as step
from tests.gradients._oracle import combined, norm


class Net(nn.Module):
    """Not of torch's own classes: `module.compile()` hands those through uncompiled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(torch.tanh(self.first(inputs)))
        return outputs


class Around(nn.Module):
    """Calls another module."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inside(inputs)
        return outputs


def net() -> nn.Module:
    return nn.Sequential(Net(), nn.Linear(3, 3)).double()


def _wrapped(model: nn.Module, backend: Any) -> Any:
    return torch.compile(model, backend=backend, fullgraph=True)


def _in_place(model: nn.Module, backend: Any) -> Any:
    model = Around(model)
    model.compile(backend=backend, fullgraph=True)
    return model


def _part(model: Any, backend: Any) -> Any:
    model[0] = torch.compile(model[0], backend=backend, fullgraph=True)
    return model


def _part_in_place(model: Any, backend: Any) -> Any:
    model[0].compile(backend=backend, fullgraph=True)
    return model


# Of torch itself: dynamo looks at `.grad` of everything, inductor imports what is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*(deprecated|should not be inst):DeprecationWarning"),
]

Compile = Callable[[nn.Module, Any], Any]
COMPILES: list[Compile] = [_wrapped, _in_place, _part, _part_in_place]
BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler"),
        ],
    ),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def n_graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("compiled", COMPILES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_those_of_the_uncompiled_run(compiled: Compile, backend: str) -> None:
    model, plain = compiled(net(), backend), net()
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.02) for m in (model, plain)]
    clipper, other = lagged(model), lagged(plain)
    graphs = []
    with torch.compiler.set_stance("default"):
        for batch in make_batches(9):
            record, expected = step(clipper, model, batch), step(other, plain, batch)
            torch.testing.assert_close(record.group_norms, expected.group_norms, equal_nan=True)
            torch.testing.assert_close(record.factors, expected.factors)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            graphs.append(n_graphs())
    for found, right in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)
    assert graphs == [1] * 9  # compiled in the first step, and never again
    assert not counters["graph_break"]
    assert clipper.trace.to_frame()["norm[0]"].notna().sum() >= 2


@pytest.mark.parametrize("compiled", COMPILES)
def test_a_measured_step_stays_compiled_without_gradients(
    compiled: Compile,
) -> None:
    ran: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        def run(*args: Any) -> Any:
            ran.append(1)
            return graph(*args)

        return run

    model = compiled(net(), backend)
    clipper = lagged(model)
    inputs = make_batches(1)[0][0]
    warm(clipper, model, 1)
    ran.clear()
    with torch.no_grad():
        model(inputs)
    assert ran == [1]
    warm(clipper, model, 1)  # measured
    assert ran == [1]
    warm(clipper, model, 2)
    assert ran == [1] * 3
    clipper.remove()
    model(inputs)
    assert ran == [1] * 4


def test_the_users_stance_is_kept() -> None:
    model = _wrapped(net(), "aot_eager")
    clipper = lagged(model)
    warm(clipper, model, 1)
    with torch.compiler.set_stance("fail_on_recompile"):
        warm(clipper, model, 5)
        with pytest.raises(RuntimeError, match="recompile"):
            model(torch.randn(2, 4))


def test_a_compiled_loss() -> None:
    model = net()
    losses = torch.compile(
        lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none"),
        backend="aot_eager",
        fullgraph=True,
    )
    clipper = lagged(model)
    for batch in make_batches(2 * EVERY):
        parts = parts_of(model, batch)
        clipper.weigh(losses(model(batch[0]), batch[1]), batch[2]).mean().backward()
        record = clipper.clip_grad_()
        assert_close(grads(model), combined(parts, record.factors.tolist()), 1e-10)
        if is_measured(record) and record.counts[0]:
            assert record.group_norms[0].item() == pytest.approx(norm(parts[0]), rel=1e-9)
        model.zero_grad()
    assert record.factors.min() < 1


@pytest.mark.parametrize("around", [True, False], ids=["a function", "another wrapper"])
def test_a_compiled_call_that_hooks_do_not_see_is_refused(around: bool) -> None:
    model = net()
    clipper = lagged(model)
    if around:

        def forward(inputs: Tensor) -> Any:
            return model(inputs)

        call: Any = torch.compile(forward, backend="aot_eager")
    else:
        call = torch.compile(model, backend="aot_eager")
    first, second = make_batches(2)
    clipper.weigh(row_losses(call, first), first[2]).mean().backward()
    clipper.clip_grad_()
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"give it what `torch\.compile` returned"):
        clipper.weigh(row_losses(call, second), second[2])


def test_what_does_not_work_says_what_to_use() -> None:
    for compiled in COMPILES:
        clipper = lagged(compiled(net(), "aot_eager"))
        with pytest.raises(NotImplementedError, match="weigh"), clipper.watch([0, 1]):
            pass
        with pytest.raises(NotImplementedError, match="weigh"):
            clipper.backward(torch.ones(2, requires_grad=True), [0, 1])
