"""Faults planted in the engine and in real models: each is found, and named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairclip.gradients import GradientEngine, _rules
from fairclip.gradients._probe import some_rows
from tests.gradients._exactness import K, assert_exact, assert_next_step, seeded
from tests.gradients._inputs import CODES, IDS, IMAGES, B, classify_means, cross_entropy
from tests.gradients._real_models import ResNet18, bert, group_norm
from tests.gradients._wrappers import mlp


def of_texts(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(IDS[step]).logits)


# ------------------------------------------------------------------ a wrong rule

WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "half": lambda sums: sums / 2,
    "nothing": torch.zeros_like,
    "nan": lambda sums: sums * torch.nan,
    "one group's": lambda sums: sums * torch.eye(len(sums))[0].view(-1, *[1] * (sums.ndim - 1)),
}


def plant(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], wrong: str) -> None:
    rule = _rules._RULES[kind]

    def spoiled(*args: Any) -> Any:
        sums = rule(*args)
        slots = args[-1]
        dense = sums if isinstance(sums, dict) else sums.sums(slots)
        return {name: WRONG[wrong](tensor) for name, tensor in dense.items()}

    monkeypatch.setattr(_rules, "_RULES", {**_rules._RULES, kind: spoiled})


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (nn.Linear, "bert.encoder.layer.0.attention.self.query.weight"),
        (nn.LayerNorm, "bert.embeddings.LayerNorm.weight"),
        (nn.Embedding, "bert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_wrong_rule_is_named_and_not_used(
    kind: type[nn.Module], name: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, kind, wrong)
    check: Any = True if wrong == "half" else "first"
    (message,) = assert_exact(seeded(bert), of_texts, CODES, check=check)  # said once
    assert f"'{name}'" in message
    assert "running the model again" in message


def test_a_wrong_rule_is_found_where_the_first_step_had_one_group_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, nn.LayerNorm, "half")
    codes = [torch.zeros(B, dtype=torch.int64), *CODES[:2]]
    messages = assert_exact(seeded(bert), of_texts, codes)
    assert any("LayerNorm" in message for message in messages)


# ------------------------------------------------------------------ wrong rows


class Around(nn.Module):
    """A model whose rows are moved before, after or on both sides."""

    def __init__(self, model: nn.Module, *, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.model = model
        self.before = before or (lambda inputs: inputs)
        self.after = after or (lambda logits: logits)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.model(self.before(inputs))
        logits: Tensor = self.after(output if isinstance(output, Tensor) else output.logits)
        return logits


ORDER = torch.tensor([3, 0, 5, 1, 4, 2])


def _by_value(logits: Tensor) -> Tensor:
    return logits[logits[:, 0].argsort()]


def _permuted(rows: Tensor) -> Tensor:
    return rows[ORDER.argsort()[ORDER.argsort() < len(rows)]]


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rolled": lambda rows: rows.roll(1, 0),
    "flipped": lambda rows: rows.flip(0),
    "sorted": _by_value,
    "permuted": _permuted,
    "shifted": lambda rows: torch.cat([rows[1:], rows[:1]]),
    "averaged": lambda rows: rows - rows.mean(0),
}


def of_rows(model: nn.Module, step: int) -> Tensor:
    is_text = any(isinstance(module, nn.Embedding) for module in model.modules())
    return cross_entropy(model(IDS[step] if is_text else IMAGES[step]))


@pytest.mark.parametrize("build", [bert, lambda: ResNet18(group_norm)], ids=["bert", "resnet"])
@pytest.mark.parametrize("move", MOVES)
def test_rows_that_are_moved_on_the_way_out_are_refused(
    move: str, build: Callable[[], nn.Module]
) -> None:
    model = seeded(lambda: Around(build(), after=MOVES[move]))
    engine = GradientEngine(model, K)
    with (
        pytest.raises(RuntimeError, match=r"the model.*clipper\.backward"),
        engine.watch(CODES[0]),
    ):
        of_rows(model, 0).mean().backward()
    assert_next_step(engine, model, of_rows, CODES[0], how="backward")  # the way out


@pytest.mark.parametrize("build", [bert, lambda: ResNet18(group_norm)], ids=["bert", "resnet"])
def test_rows_that_are_moved_inside_and_put_back_are_right(build: Callable[[], nn.Module]) -> None:
    def moved() -> nn.Module:
        return Around(
            build(), before=lambda rows: rows.roll(2, 0), after=lambda rows: rows.roll(-2, 0)
        )

    assert not assert_exact(seeded(moved), of_rows, CODES)


class Reordered(nn.Module):
    """Runs its layers on reordered rows, and puts them back."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.layers = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        n = len(inputs)
        order = {
            "fixed": torch.randperm(n, generator=torch.Generator().manual_seed(n)),
            "reversed": torch.arange(n).flip(0),
            "rolled": torch.arange(n).roll(1),
            "sorted": inputs[:, 0].argsort(),
        }[self.order]
        logits: Tensor = self.layers(inputs[order])[order.argsort()]
        return logits


@pytest.mark.parametrize("order", ["fixed", "reversed", "rolled", "sorted"])
def test_rows_that_are_reordered_and_put_back_are_right(order: str) -> None:
    assert not assert_exact(seeded(lambda: Reordered(order)), classify_means, CODES)


class Between(nn.Module):
    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move = move

    def forward(self, inputs: Tensor) -> Tensor:
        return self.move(inputs)


@pytest.mark.parametrize(
    "move",
    [lambda rows: rows.roll(1, 0), lambda rows: rows.roll(-2, 0), lambda rows: rows - rows.mean(0)],
    ids=["rolled", "rolled back", "centred"],
)
def test_rows_that_are_moved_between_layers_are_refused(move: Callable[[Tensor], Tensor]) -> None:
    model = seeded(lambda: mlp(Between(move)))
    engine = GradientEngine(model, K)
    with pytest.raises(RuntimeError, match="cannot be told apart"), engine.watch(CODES[0]):
        classify_means(model, 0).mean().backward()


@pytest.mark.parametrize("n_rows", range(2, 33))
def test_no_roll_or_turn_of_the_rows_looks_like_none(n_rows: int) -> None:
    """Of the rows that are run alone, in a batch of any size."""
    index = some_rows(n_rows, torch.device("cpu"))
    assert 0 < len(index) < n_rows
    rows = torch.arange(n_rows)
    for turn in (rows, rows.flip(0)):
        for by in range(n_rows):
            moved = turn.roll(by)
            alone = (index.flip(0) if turn is not rows else index).roll(by)
            if not torch.equal(moved, rows):
                assert not torch.equal(moved[index], alone), (by, turn)
