"""What is refused, with its remedy."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip.gradients import GradientEngine
from tests._as_on_a_device import as_on_a_device
from tests.gradients._exactness import K, assert_exact, assert_next_step, seeded
from tests.gradients._inputs import CODES, TARGETS, VECTORS, W, classify_means, cross_entropy
from tests.gradients._wrappers import mlp


def test_a_model_without_trainable_parameters() -> None:
    for model in (nn.Tanh(), mlp().requires_grad_(False)):
        with pytest.raises(ValueError, match=r"no trainable parameters.*requires_grad"):
            GradientEngine(model, K)


@pytest.mark.parametrize(
    "name", ["DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"]
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_model_that_is_wrapped_for_several_devices(name: str, inside: bool) -> None:
    wrapper: Callable[..., nn.Module] = type(name, (nn.Sequential,), {})
    model = wrapper(mlp())
    with pytest.raises(NotImplementedError, match=rf"{name}.*plain model"):
        GradientEngine(nn.Sequential(model) if inside else model, K)


def test_a_compiled_model() -> None:
    inside, in_place = mlp(), mlp()
    inside[0] = torch.compile(inside[0], backend="eager")  # type: ignore[assignment]
    in_place[2].compile(backend="eager")
    compiled: list[Any] = [torch.compile(mlp(), backend="eager"), inside, in_place]
    for model in compiled:
        engine = GradientEngine(model, K)
        with pytest.raises(NotImplementedError, match=r"before `torch\.compile`"):
            engine.watch(CODES[0]).__enter__()


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"Module '0\.0'.*sparse=False"):
        GradientEngine(nn.Sequential(nn.Sequential(kind(5, 3, sparse=True))), K)
    frozen = kind(5, 3, sparse=True).requires_grad_(False)
    GradientEngine(nn.Sequential(frozen, nn.Linear(3, 2)), K)


def test_complex_parameters() -> None:
    with pytest.raises(ValueError, match=r"'weight' is complex"):
        GradientEngine(nn.Linear(2, 2, dtype=torch.complex64), K)


@pytest.mark.parametrize("how", ["unfrozen", "added"])
def test_a_parameter_that_becomes_trainable_later(how: str) -> None:
    model = seeded(mlp)
    model.get_submodule("0").requires_grad_(how == "added")
    engine = GradientEngine(model, K)
    assert_next_step(engine, model, classify_means, CODES[0])
    model.zero_grad()
    if how == "unfrozen":
        model.requires_grad_(True)
    else:
        model.add_module("3", nn.Linear(3, 3).double())
    remedy = r"added or unfrozen.*make a new one"
    with pytest.raises(RuntimeError, match=remedy), engine.watch(CODES[0]):
        classify_means(model, 0).mean().backward()


def test_an_input_that_is_changed_in_place_after_use_is_refused() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.bias = nn.Linear(4, 3).requires_grad_(False)
            self.bias.bias.requires_grad_(True)

        def forward(self, inputs: Tensor) -> Tensor:
            inputs = inputs * 2
            hidden = self.bias(inputs)  # autograd does not need its input
            inputs.add_(1)
            logits: Tensor = self.first(inputs) + hidden
            return logits

    model = InPlace().double()
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="in place"), engine.watch(CODES[0]):
        classify_means(model, 0).mean().backward()


class OwnLoss(nn.Module):
    """Returns nothing but its loss."""

    def __init__(self, *, scale: bool) -> None:
        super().__init__()
        self.layers = mlp()
        self.scale: Any = nn.Parameter(torch.rand(3)) if scale else 1

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self.layers(inputs) * self.scale, targets)


def of_itself(model: nn.Module, step: int) -> Tensor:
    loss: Tensor = model(VECTORS[step].mean(1), TARGETS)
    return loss


def of_its_layers(model: nn.Module, step: int) -> Tensor:
    logits = model.get_submodule("layers")(VECTORS[step].mean(1))
    return cross_entropy(logits * model.scale)


def test_a_model_that_returns_its_loss_works_with_rules_alone() -> None:
    model = seeded(lambda: OwnLoss(scale=False))
    assert not assert_exact(model, of_itself, CODES, oracle=of_its_layers)


def test_a_model_that_returns_its_loss_names_the_parameter_that_needs_rows() -> None:
    model = seeded(lambda: OwnLoss(scale=True))
    engine = GradientEngine(model, K)
    remedy = r"'scale'.*return its outputs.*clipper\.backward"
    with pytest.raises(RuntimeError, match=remedy), engine.watch(CODES[0]):
        of_itself(model, 0).backward()
    assert_next_step(engine, model, of_its_layers, CODES[0], how="backward")


def test_outputs_that_cannot_be_looked_into_are_refused() -> None:
    class Box:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Boxed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(W))
            self.layers = mlp()

        def forward(self, inputs: Tensor) -> Box:
            return Box(self.layers(inputs * self.scale))

    model = Boxed().double()
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="'scale'"), engine.watch(CODES[0]):
        cross_entropy(model(VECTORS[0].mean(1)).logits).mean().backward()


@pytest.mark.parametrize("device", [False, True], ids=["host", "device"])
def test_a_module_that_does_not_run_again_as_it_did(device: bool) -> None:
    """A device is not waited for: NaN says that nothing is known."""

    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(W))
            self.head = nn.Linear(W, 3)
            self.bends = False

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = inputs * self.scale
            logits: Tensor = self.head(torch.tanh(hidden) if self.bends else hidden)
            return logits

    model = seeded(Switched)
    engine = GradientEngine(model, K, check=False)
    assert_next_step(engine, model, classify_means, CODES[0])
    model.zero_grad()
    with ExitStack() as stack:
        if device:
            stack.enter_context(as_on_a_device())
        else:
            stack.enter_context(pytest.raises(RuntimeError, match="not give the same outputs"))
        with engine.watch(CODES[0]):
            losses = classify_means(model, 1)
            setattr(model, "bends", True)  # noqa: B010 - nn.Module has it not
            losses.mean().backward()
        assert engine.collect().gramian().isnan().any()


def test_an_output_that_is_a_view_and_is_changed_in_place() -> None:
    model = nn.Sequential(nn.Linear(W, 1), nn.Flatten(0))

    def shifted() -> Tensor:
        logits: Tensor = model(VECTORS[0].mean(1).float())
        logits += 1.0
        return logits

    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="modified in place"), engine.watch(CODES[0]):
        shifted().square().mean().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model() -> None:
    scripted = torch.jit.trace(mlp(), torch.ones(2, W))
    with pytest.raises(NotImplementedError, match=r"before `torch\.jit`"):
        GradientEngine(scripted, K)
