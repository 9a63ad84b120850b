"""Parameters held and used in every way a model's author thinks of, against the oracle."""

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, assert_exact, seeded
from tests.gradients._inputs import (
    CODES,
    N_CLASSES,
    TARGETS,
    VECTORS,
    Batch,
    W,
    classify_means,
    cross_entropy,
)
from tests.gradients._wrappers import CASES, CHECKPOINTS, Case, Checkpointed, mlp, of_vectors

N_ROWS = (1, 2, 3, 6, 7)  # not T: which dimension is the batch would be ambiguous


def draw_codes(data: st.DataObject, n_rows: int, n_steps: int = 2) -> list[Tensor]:
    row = st.integers(-1, K - 1)
    codes = st.lists(row, min_size=n_rows, max_size=n_rows).map(torch.tensor)
    return [data.draw(codes, label=f"codes {step}") for step in range(n_steps)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(derandomize=True, deadline=None, max_examples=5)
@given(data=st.data())
def test_it_agrees_with_one_backward_pass_a_group(case: Case, data: st.DataObject) -> None:
    n_rows = data.draw(st.sampled_from(N_ROWS), label="B")
    messages = assert_exact(
        seeded(case.build),
        lambda model, step: case.losses(model, Batch.draw(n_rows, step)),
        draw_codes(data, n_rows),
        # Without checks a use that no call shows would go unnoticed.
        check=data.draw(
            st.sampled_from(["first", True, *[False] * (not case.warns)]), label="check"
        ),
    )
    assert len(messages) <= 1  # said once
    assert all(case.warns and case.warns in message for message in messages)


@pytest.mark.parametrize("check", ["first", True])
def test_layers_that_are_frozen_and_unfrozen_between_steps(check: Any) -> None:
    def freeze(model: nn.Module, step: int) -> None:
        model.get_submodule("0").requires_grad_(step != 1)
        model.get_submodule("2").requires_grad_(step != 2)

    assert not assert_exact(seeded(mlp), classify_means, CODES, before_step=freeze, check=check)


# ------------------------------------------------------------------ activation checkpointing


@pytest.mark.parametrize("how", CHECKPOINTS)
def test_two_checkpointed_passes_in_one_window(how: str) -> None:
    """The second forward pass comes after a backward pass that stopped its re-runs early."""
    steps = iter([(0, 1), (2, 3)])

    def both(_: Tensor) -> None:
        for number in next(steps):
            classify_means(model, number).mean().backward()

    def expected(model: nn.Module, step: int) -> Tensor:
        return classify_means(model, 2 * step) + classify_means(model, 2 * step + 1)

    model = seeded(lambda: Checkpointed(how))
    assert not assert_exact(
        model, lambda *_: torch.zeros(()), CODES[:2], backward=both, oracle=expected
    )


class Rolled(Checkpointed):
    """Its block has the rows in another order, which no call around the block shows."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.roll(1, 0)).roll(-1, 0)


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")  # nested: torch's own
@pytest.mark.parametrize("kind", [Checkpointed, Rolled])
@pytest.mark.parametrize("how", CHECKPOINTS)
def test_reentrant_checkpointing_is_refused(how: str, kind: type[Checkpointed]) -> None:
    model = seeded(lambda: kind(how, reentrant=True))
    engine = GradientEngine(model, K)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="use_reentrant=False"), engine.watch(CODES[0]):
            classify_means(model, 0).mean().backward()
        model.zero_grad()


def test_reentrant_checkpointing_of_a_whole_model_is_refused() -> None:
    model = seeded(mlp)
    engine = GradientEngine(model, K)
    inputs = VECTORS[0].mean(1).requires_grad_()
    with pytest.raises(RuntimeError, match="use_reentrant=False"), engine.watch(CODES[0]):
        checkpoint(model, inputs, use_reentrant=True).sum().backward()


# ------------------------------------------------------------------ outputs and losses


@dataclass
class Registered(ModelOutput):  # type: ignore[misc]
    logits: Tensor | None = None
    hidden: Tensor | None = None


@dataclass
class Plain:
    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True)
class Nested:
    outputs: Plain
    name: str = "of the last layer"

    @property
    def logits(self) -> Tensor:
        return self.outputs.logits

    @property
    def hidden(self) -> Tensor:
        return self.outputs.hidden


Named = namedtuple("Named", ["logits", "hidden"])

OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda logits, hidden: {"logits": logits, "hidden": [hidden], "n": 2},
    "tuple": lambda logits, hidden: (logits, hidden),
    "namedtuple": Named,
    "model_output": lambda logits, hidden: Registered(logits=logits, hidden=hidden),
    "user_dict": lambda logits, hidden: UserDict(logits=logits, hidden=[hidden]),
    "dataclass": Plain,
    "nested_dataclass": lambda logits, hidden: Nested(Plain(logits, hidden)),
    "list_of_dataclasses": lambda logits, hidden: [Plain(logits, hidden), None],
}


def parts_of(output: Any) -> tuple[Tensor, Tensor]:
    if isinstance(output, list):
        return parts_of(output[0])
    if isinstance(output, dict | UserDict) and not isinstance(output, ModelOutput):
        return output["logits"], output["hidden"][0]
    if isinstance(output, tuple):
        return output[0], output[1]
    return output.logits, output.hidden


class Returns(nn.Module):
    """Returns two tensors, one of which depends on the other."""

    def __init__(self, kind: str, *, own: bool, roll: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(W, 6)
        self.head = nn.Linear(6, N_CLASSES)
        self.scale = nn.Parameter(torch.rand(N_CLASSES) + 0.5) if own else None
        self.kind = kind
        self.roll = roll

    def forward(self, inputs: Tensor) -> Any:
        hidden = torch.tanh(self.first(inputs))
        logits = self.head(hidden).roll(self.roll, 0)
        if self.scale is not None:
            logits = logits * self.scale
        return OUTPUTS[self.kind](logits, hidden)


def of_both(model: nn.Module, step: int) -> Tensor:
    logits, hidden = parts_of(model(VECTORS[step].mean(1)))
    return cross_entropy(logits) + hidden.square().sum(1)


@pytest.mark.parametrize("own", [False, True], ids=["layers", "own"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_whatever_holds_the_outputs(kind: str, own: bool) -> None:
    assert not assert_exact(seeded(lambda: Returns(kind, own=own)), of_both, CODES)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_wrong_rows_are_found_in_whatever_holds_them(kind: str) -> None:
    model = seeded(lambda: Returns(kind, own=False, roll=1))
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match=r"clipper\.backward"), engine.watch(CODES[0]):
        of_both(model, 0).mean().backward()


def test_the_users_own_dataclass_is_what_comes_back() -> None:
    model = seeded(lambda: Returns("nested_dataclass", own=True))
    engine = GradientEngine(model, K)
    with engine.watch(CODES[0]):
        output = model(VECTORS[0].mean(1))
        assert type(output) is Nested
        assert type(output.outputs) is Plain
        assert output.name == "of the last layer"
        of_both(model, 0).mean().backward()


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(W, 6)
        self.heads = nn.ModuleList([nn.Linear(6, N_CLASSES), nn.Linear(6, 1), nn.Linear(6, 2)])

    def forward(self, inputs: Tensor) -> list[Tensor]:
        hidden = torch.tanh(self.trunk(inputs.mean(1)))
        return [head(hidden) for head in self.heads]


@pytest.mark.parametrize("how", ["sum", "two calls", "one call", "one head a step"])
@pytest.mark.parametrize("check", ["first", True])
def test_several_heads_and_losses(how: str, check: Any) -> None:
    def losses(model: nn.Module, step: int) -> Tensor:
        logits, value, _ = model(VECTORS[step])
        of_some = value[:, 0].square() * (TARGETS > 0)  # rows without this label
        held[:] = [cross_entropy(logits), of_some]
        if how == "one head a step":
            return held[0] + 0 * held[1] if step else held[0] + held[1]
        return held[0] + held[1]

    def backward(together: Tensor) -> None:
        first, second = (loss.mean() for loss in held)
        if how == "two calls":
            first.backward(retain_graph=True)
            second.backward()
        elif how == "one call":
            torch.autograd.backward([first, second])
        else:
            together.mean().backward()

    held: list[Tensor] = []
    assert not assert_exact(seeded(Heads), losses, CODES, backward=backward, check=check)


def test_modules_that_the_user_calls_one_by_one() -> None:
    """As in a training step of the user's own, without one model around them."""

    def losses(model: nn.Module, step: int) -> Tensor:
        trunk, heads = model.get_submodule("trunk"), model.get_submodule("heads")
        hidden = torch.tanh(trunk(VECTORS[step].mean(1)))
        return cross_entropy(heads.get_submodule("0")(hidden))

    assert not assert_exact(seeded(Heads), losses, CODES)


@pytest.mark.parametrize("sizes", [(6, 2, 1, 7), (2, 6, 1, 2)], ids=str)
@pytest.mark.parametrize("name", ["many_calls", "class_token-0.2-True"])
def test_shapes_may_change_from_step_to_step(name: str, sizes: tuple[int, ...]) -> None:
    """The last batch is smaller, and one has a single row."""
    case = next(case for case in CASES if case.name == name)
    codes = [torch.arange(size) % (K + 1) - 1 for size in sizes]
    assert not assert_exact(
        seeded(case.build), lambda m, step: of_vectors(m, Batch.draw(sizes[step], step)), codes
    )
